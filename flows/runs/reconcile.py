"""Sets right what a lost machine left behind: Prefect runs that look alive, open MLflow runs, stale records, half-done
publishes, temporary files, worktrees of finished runs. Idempotent: a second call finds nothing.

Who is alive is asked of the kernel (file locks), never concluded from silence.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from uuid import UUID

from fewstep.util.errors import Busy, FewstepError, NotAvailable
from tasks.storage.locks import workspace_lock
from tasks.storage.workspace import Workspace
from tasks.tracking.redaction import redact
from tasks.tracking.run_records import FINISHED, KILLED, RunRecord, RunStore

OLD_UPLOAD = timedelta(days=1)      # no upload of ours takes so long
OPEN = ["RUNNING", "PENDING", "CANCELLING"]


@dataclass
class Report:
    """What was set right, as lines a person can read, and what could not be looked at."""

    records: list[str] = field(default_factory=list)
    prefect: list[str] = field(default_factory=list)
    mlflow: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    worktrees: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def changed(self) -> int:
        return sum(len(lines) for name, lines in asdict(self).items() if name != "skipped")


def reconcile(workspace: Workspace, profile: str) -> Report:
    """Looks at everything once. A server that does not answer is reported in `skipped`; the rest is still done."""
    report, store = Report(), RunStore(workspace)
    for run in store.ids():
        record = store.load(run)
        if store.settle(record):
            report.records.append(f"{run}: was killed; continue with: {record.resume_command}")
    _files(workspace, report)
    _worktrees(workspace, store, report)
    for part in (_mlflow, _prefect, _uploads):
        try:
            part(workspace, store, profile, report)
        except NotAvailable as error:
            report.skipped.append(str(error))
    return report


def _files(workspace: Workspace, report: Report) -> None:
    from tasks.engine import publish

    try:
        with workspace_lock(workspace, "fewstep reconcile"):
            report.files += [f"{stage}: a publish that was cut in half is complete"
                             for stage in publish.complete(workspace)]
    except Busy as error:
        report.skipped.append(f"temporary files: {error}")


def _worktrees(workspace: Workspace, store: RunStore, report: Report) -> None:
    from tasks.storage import worktrees

    known = set(store.ids())
    for run in worktrees.present(workspace):
        if run in known and (store.alive(run) or store.load(run).state != FINISHED):
            continue
        worktrees.remove(workspace, run)
        report.worktrees.append(f"{run}: worktree of a finished run removed")


def _mlflow(workspace: Workspace, store: RunStore, profile: str, report: Report) -> None:
    from tasks.registry.close_orphans import close_orphans

    states = {record.id: record.state for record in store.all()}
    report.mlflow += close_orphans(workspace, is_alive=store.alive, states=states)


def _uploads(workspace: Workspace, store: RunStore, profile: str, report: Report) -> None:
    from tasks.storage import remote_outputs

    report.files += [f"{name}: an unfinished upload to the remote was given up"
                     for name in remote_outputs.give_up_uploads(workspace, OLD_UPLOAD)]


# Prefect

def _prefect(workspace: Workspace, store: RunStore, profile: str, report: Report) -> None:
    from flows.orchestration.prefect_api import prefect_api
    from flows.runs.log_capture import drain, logs_to

    if profile == "local" and not (workspace.prefect_home / "prefect.db").exists() \
            and not os.environ.get("PREFECT_API_URL"):
        return      # Prefect never ran here
    log = workspace.shared / "logs" / "prefect.log"
    with prefect_api(workspace, profile, log), logs_to(log):
        try:
            report.prefect += settle_flow_runs(workspace, store)
        except FewstepError:
            raise
        except Exception as error:      # httpx and Prefect's own kinds: the server is at fault, not the runs
            raise NotAvailable(f"Prefect did not answer: {redact(str(error))}") from error
        finally:
            drain()


def settle_flow_runs(workspace: Workspace, store: RunStore) -> list[str]:
    """Flow runs of this machine that Prefect believes alive and that no process holds become what they are."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowFilter,
        FlowFilterName,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )

    from flows.orchestration.flow_run_locks import forget, holds, known_here

    lines = []
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(like_="fewstep")),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=OPEN))))
        for run in runs:
            record = _record_of(store, run.parameters.get("run"))
            if record is None:
                dead = known_here(workspace, str(run.id)) and not holds(workspace, str(run.id))
            else:
                dead = not store.alive(record.id)
            if not dead:
                continue
            state, message = _true_state(record)
            set_state(str(run.id), state, message, client=client)
            forget(workspace, str(run.id))
            lines.append(f"{run.name}: {run.state.name} → {state}")
    return lines


def _record_of(store: RunStore, run: str | None) -> RunRecord | None:
    try:
        return store.load(run) if run else None
    except FewstepError:
        return None


def _true_state(record: RunRecord | None) -> tuple[str, str]:
    if record is None:
        return "Crashed", "its process is gone"
    if record.state == FINISHED:
        return "Completed", "every stage is done"
    kind = {"failed": "Failed", "cancelled": "Cancelled", KILLED: "Crashed"}.get(record.state, "Crashed")
    return kind, f"its process is gone; continue with: {record.resume_command}"


def set_state(flow_run: str, name: str, message: str, client=None) -> None:
    """Force a flow run's state: Crashed, Cancelled, Failed or Completed."""
    import prefect.states
    from prefect.client.orchestration import get_client

    state = getattr(prefect.states, name)(message=message)
    if client is not None:
        client.set_flow_run_state(UUID(flow_run), state, force=True)
        return
    with get_client(sync_client=True) as own:
        own.set_flow_run_state(UUID(flow_run), state, force=True)
