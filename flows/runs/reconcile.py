"""Sets right what a lost machine left behind: Prefect runs that look alive, open MLflow runs, stale records, half-done
publishes, unfinished uploads, worktrees of finished runs. Idempotent: a second call changes nothing.

The kernel says which runs of this host are alive (file locks), the shared store which of others are (leases). What is
another host's is left alone while its lease holds; silence proves nothing.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from datetime import timedelta

from fewstep.util.errors import Busy, FewstepError, NotAvailable
from flows.orchestration.prefect_api import prefect_api
from flows.runs.log_capture import drain, logs_to
from tasks.engine import publish
from tasks.storage import remote_outputs, worktrees
from tasks.storage.locks import workspace_lock
from tasks.storage.workspace import Workspace, given_mlflow_uri
from tasks.tracking.redaction import redact
from tasks.tracking.run_record import FINISHED
from tasks.tracking.run_records import RunStore

IDLE_UPLOAD = timedelta(days=1)     # without a new part: no host is at it any more


@dataclass
class Report:
    """Lines that say what was set right, by kind, and what could not be looked at (`skipped`)."""

    records: list[str] = field(default_factory=list)
    prefect: list[str] = field(default_factory=list)
    mlflow: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    worktrees: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def changed(self) -> int:
        """How many things were set right."""
        return sum(len(lines) for name, lines in asdict(self).items() if name != "skipped")


def reconcile(workspace: Workspace, profile: str) -> Report:
    """Looks at everything once. A server that does not answer is reported in `skipped`; the rest is still done."""
    report, store = Report(), RunStore(workspace)
    _files(workspace, report)
    _worktrees(workspace, store, report)
    for part in (_records, _mlflow, _prefect, _uploads):
        try:
            part(workspace, store, profile, report)
        except NotAvailable as error:
            report.skipped.append(str(error))
    return report


def _records(workspace: Workspace, store: RunStore, profile: str, report: Report) -> None:
    for run in store.ids():
        record = store.load(run)
        if store.settle(record):
            report.records.append(f"{run}: was killed; continue with: {record.resume_command}")


def _files(workspace: Workspace, report: Report) -> None:
    try:
        with workspace_lock(workspace, "fewstep reconcile"):
            report.files += [f"{stage}: a publish that was cut in half is complete"
                             for stage in publish.complete(workspace)]
    except Busy as error:
        report.skipped.append(f"temporary files: {error}")


def _worktrees(workspace: Workspace, store: RunStore, report: Report) -> None:
    known = set(store.ids())
    for run in worktrees.present(workspace):
        if run in known and (store.alive(run) or store.load(run).state != FINISHED):
            continue
        worktrees.remove(workspace, run)
        report.worktrees.append(f"{run}: worktree of a finished run removed")


def _mlflow(workspace: Workspace, store: RunStore, profile: str, report: Report) -> None:
    from tasks.registry.close_orphans import close_orphans  # MLflow takes seconds to load

    states = {record.id: record.state for record in store.all()}
    own_database = given_mlflow_uri() is None   # nobody else writes there: a run without a record is a lost one

    def is_abandoned(run: str) -> bool:
        return store.abandoned(run) or (own_database and not store.path(run).exists())

    report.mlflow += close_orphans(workspace, is_abandoned=is_abandoned, states=states)


def _uploads(workspace: Workspace, store: RunStore, profile: str, report: Report) -> None:
    report.files += [f"{name}: an unfinished upload to the remote was given up"
                     for name in remote_outputs.give_up_uploads(workspace, IDLE_UPLOAD)]


def _prefect(workspace: Workspace, store: RunStore, profile: str, report: Report) -> None:
    if profile == "local" and not (workspace.prefect_home / "prefect.db").exists() \
            and not os.environ.get("PREFECT_API_URL"):
        return      # Prefect never ran here
    log = workspace.shared / "logs" / "prefect.log"
    with prefect_api(workspace, profile, log), logs_to(log):
        from flows.orchestration.flow_run_states import settle_flow_runs  # Prefect reads its environment on import

        try:
            report.prefect += settle_flow_runs(workspace, store)
        except FewstepError:
            raise
        except Exception as error:      # httpx and Prefect's own kinds: the server is at fault, not the runs
            raise NotAvailable(f"Prefect did not answer: {redact(str(error))}") from error
        finally:
            drain()
