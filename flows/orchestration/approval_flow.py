"""A waiting decision on a Prefect server: a suspended flow run, answered on its page.

The decision itself waits in the registry's record (tasks.registry.gate.pending_approvals), which alone says whether it is still open; the run
is a second door to it. `fewstep serve` serves the deployment, so a suspended run holds no process.
"""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import flow
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput

from fewstep.util.errors import FewstepError
from tasks.registry.audit_log import Entry

NAME = "fewstep-approval"
DEPLOYMENT = "approval"


class Answer(RunInput):
    """What the page asks for."""

    approve: bool = False
    why: str = ""
    who: str = ""


@flow(name=NAME, flow_run_name="approve {title}", persist_result=True, result_serializer="json",
      validate_parameters=False)
def approval(root: str, identity: str, title: str) -> str:
    """Suspends until somebody answers, then approves or rejects decision `identity` of the checkout at `root`."""
    from tasks.registry import webhooks
    from tasks.registry.gate import pending_approvals as decisions
    from tasks.registry.model_registry import Registry
    from tasks.storage.workspace import Workspace

    registry = Registry(Workspace.find(root))
    model, entry = decisions.find(registry, identity)
    if not any(one.id == entry.id for one in decisions.waiting(registry, model)):
        return "decided already"
    left = (datetime.fromisoformat(entry.expires) - datetime.now(UTC)).total_seconds()
    asked = Answer.with_initial_data(description=describe(model, entry), approve=False)
    answer = suspend_flow_run(wait_for_input=asked, timeout=max(60, int(left)))
    decide = decisions.approve if answer.approve else decisions.reject
    try:
        return decide(registry, identity, why=answer.why, who=answer.who or None).event
    except FewstepError as error:
        return str(error)
    finally:
        webhooks.deliver(registry, model)


def describe(model: str, entry: Entry) -> str:
    """The decision in Markdown, with its table of figures."""
    lines = [f"**{model}/{entry.to} → {entry.alias}**, asked for by {entry.who} {entry.why}".rstrip(),
             f"instead of version {entry.former}; until {entry.expires}", ""]
    contest = entry.figures.get("contest")
    if contest:
        lines += [f"| figure | v{entry.to} | v{entry.former} | excess ≤ | margin | |", "|:--|--:|--:|--:|--:|:--|"]
        lines += [f"| {one['metric']} {one['group']} | {one['candidate']:.4f} | {one['champion']:.4f} | "
                  f"{one['at_most']:+.4f} | {one['margin']:g} | {one['verdict']} |" for one in contest["contrasts"]]
    return "\n".join(lines)


def ask(root: str, identity: str, title: str) -> str | None:
    """Starts the run on the server that this process talks to; its id, or None where nobody serves the deployment."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(f"{NAME}/{DEPLOYMENT}")
        except ObjectNotFound:
            return None
        run = client.create_flow_run_from_deployment(
            deployment.id, parameters={"root": root, "identity": identity, "title": title}, idempotency_key=identity,
            tags=[_tag(identity)])
        return str(run.id)


def settle(identity: str, outcome: str) -> int:
    """Ends the runs that still wait for an answer that was given elsewhere; returns their number."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.states import Cancelled

    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(
            {"tags": {"all_": [_tag(identity)]}}))
        waiting = [run for run in runs if run.state is not None and not run.state.is_final()]
        for run in waiting:
            client.set_flow_run_state(run.id, Cancelled(message=outcome), force=True)
    return len(waiting)


def _tag(identity: str) -> str:
    return f"fewstep-decision:{identity[:16]}"
