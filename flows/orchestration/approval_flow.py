"""A waiting decision on a Prefect server: a suspended flow run, answered on its page.

The decision waits in the audit log of the registry (tasks.registry.gate.pending_approvals), which alone says whether it
is still open; the run is a second way to answer it. `fewstep serve` serves the deployment, so a suspended run holds no
process. Where hosts share the log one of them serves for all (`fewstep serve --server`).
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.exceptions import ObjectNotFound
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.states import Cancelled

from fewstep.util.errors import FewstepError
from flows.orchestration.served_root import served_workspace
from tasks.registry import webhooks
from tasks.registry.audit_log import Entry
from tasks.registry.gate import pending_approvals
from tasks.registry.model_registry import Registry
from tasks.storage.dvc.dvc_config import default_remote
from tasks.storage.sharing.shared_store import is_shared
from tasks.storage.workspace import Workspace
from tasks.tracking.redacted_logs import redact_logs_and_tracebacks, without_secrets
from tasks.tracking.redaction import redact

NAME = "fewstep-approval"
DEPLOYMENT = "approval"


class Answer(RunInput):
    """The form on the page."""

    approve: bool = False
    why: str = ""
    who: str = ""


@flow(name=NAME, flow_run_name="approve {title}", persist_result=True, result_serializer="json",
      validate_parameters=False)
def approval(identity: str, title: str) -> str:
    """Suspends until somebody answers, then approves or rejects decision `identity`."""
    redact_logs_and_tracebacks()
    with without_secrets():
        return _answered(Registry(served_workspace()), identity)


def _answered(registry: Registry, identity: str) -> str:
    model, entry = pending_approvals.find(registry, identity)
    if not any(other.id == entry.id for other in pending_approvals.waiting(registry, model)):
        return "decided already"
    left = (datetime.fromisoformat(entry.expires) - datetime.now(UTC)).total_seconds()
    asked = Answer.with_initial_data(description=describe(model, entry), approve=False)
    answer = suspend_flow_run(wait_for_input=asked, timeout=max(60, int(left)))
    decide = pending_approvals.approve if answer.approve else pending_approvals.reject
    try:
        return decide(registry, identity, why=answer.why, who=answer.who or None).event
    except FewstepError as error:
        return redact(str(error))
    finally:
        webhooks.deliver(registry, model)


def describe(model: str, entry: Entry) -> str:
    """The decision in Markdown, with its table of figures."""
    lines = [f"**{model}/{entry.to} → {entry.alias}**, asked for by {entry.who} {entry.why}".rstrip(),
             f"instead of version {entry.former}; until {entry.expires}", ""]
    contest = entry.figures.get("contest")
    if contest:
        lines += [f"| figure | v{entry.to} | v{entry.former} | excess ≤ | margin | |", "|:--|--:|--:|--:|--:|:--|"]
        lines += [f"| {row['metric']} {row['group']} | {row['candidate']:.4f} | {row['champion']:.4f} | "
                  f"{row['at_most']:+.4f} | {row['margin']:g} | {row['verdict']} |" for row in contest["contrasts"]]
    return "\n".join(lines)


def deployment_name(workspace: Workspace) -> str:
    """Of the deployment that answers for this checkout: hosts that share a store have one, and a Prefect server may
    serve several such projects."""
    remote = default_remote(workspace) if is_shared(workspace) else None
    return DEPLOYMENT if remote is None else f"{DEPLOYMENT}-{hashlib.sha256(remote.url.encode()).hexdigest()[:8]}"


def ask(workspace: Workspace, identity: str, title: str) -> str | None:
    """Starts the run on the server that this process talks to; its id, or None where nobody serves the deployment."""
    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(f"{NAME}/{deployment_name(workspace)}")
        except ObjectNotFound:
            return None
        run = client.create_flow_run_from_deployment(
            deployment.id, parameters={"identity": identity, "title": title}, idempotency_key=identity,
            tags=[_tag(identity)])
        return str(run.id)


def settle(identity: str, outcome: str) -> int:
    """Ends the runs that still wait for an answer that was given elsewhere; returns their number."""
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[_tag(identity)])))
        waiting = [run for run in runs if run.state is not None and not run.state.is_final()]
        for run in waiting:
            client.set_flow_run_state(run.id, Cancelled(message=outcome), force=True)
    return len(waiting)


def _tag(identity: str) -> str:
    return f"fewstep-decision:{identity[:16]}"
