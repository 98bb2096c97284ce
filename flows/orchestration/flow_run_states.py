"""States of flow runs on the Prefect server: what `fewstep` sets where a process could not do it itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import State
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkerFilter,
    WorkerFilterStatus,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Cancelled, Completed, Crashed, Failed

from fewstep.util.errors import FewstepError
from flows.orchestration.flow_run_locks import forget, holds, known_here
from flows.orchestration.next_worker import again, run_in
from flows.orchestration.silent_runs import SILENCE
from tasks.storage.workspace import Workspace
from tasks.tracking.all_runs import AllRuns
from tasks.tracking.run_record import CANCELLED, FAILED, FINISHED, RunRecord
from tasks.tracking.run_records import RunStore

LOOKS_ALIVE = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
_CANCELLED = Cancelled(message="its process is gone before it ended as it was told to")


def settle_flow_runs(workspace: Workspace, store: RunStore, silence: float = SILENCE) -> list[str]:
    """Gives flow runs that look alive, and that no process works on, the state they ended in. Those of a work pool that
    are not at their end are scheduled again, for the next worker to begin or continue.

    `silence`: seconds after which a run that its worker never handed over is given to another.

    Returns a line for each. Raises NotAvailable where the store that hosts share does not answer.
    """
    lines, runs = [], AllRuns(workspace)
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(like_="fewstep")),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=LOOKS_ALIVE))))
        for run in found:
            state = _state_of_worked_on(workspace, runs, run) or _state_of_stuck(client, run, silence)
            # what ended in order before it was certain that nobody works on it stays as it is
            if state is not None and client.read_flow_run(run.id).state.type in LOOKS_ALIVE:
                _force(client, run.id, state)
                forget(workspace, str(run.id))
                lines.append(f"{run.name}: {run.state.name} → {state.name}")
    return lines


def _state_of_worked_on(workspace: Workspace, runs: AllRuns, run: FlowRun) -> State | None:
    """The state of a flow run that a process worked on; None where that may live, or there was none."""
    record = _record_of(runs, run.parameters.get("run") or run_in(run.tags))
    if record is None:
        dead = known_here(workspace, str(run.id)) and not holds(workspace, str(run.id))
    else:
        dead = runs.store.abandoned(record.id)
    if not dead:
        return None
    record = record and _record_of(runs, record.id)     # as whoever worked on it has left it
    if record is not None and record.state in (FINISHED, FAILED):
        return _true_state(record)
    if run.state.type == StateType.CANCELLING:
        return _CANCELLED
    if run.work_pool_name is None:
        return _true_state(record)
    return again("its worker is gone, the next one continues it")


def _state_of_stuck(client: SyncPrefectClient, run: FlowRun, silence: float) -> State | None:
    """The state of a flow run whose worker died while it handed it over, and may have been told to end it; None for
    any other.

    What was handed over has the number of a process or job, and may wait for long until that begins: it counts as lost
    only when its worker is gone, too.
    """
    waited = datetime.now(UTC) - run.state.timestamp
    if run.work_pool_name is None or run.state.type == StateType.RUNNING or waited < timedelta(seconds=silence):
        return None
    if run.infrastructure_pid is not None:
        online = WorkerFilter(status=WorkerFilterStatus(any_=["ONLINE"]))
        workers = client.read_workers_for_work_pool(run.work_pool_name, worker_filter=online)
        if run.labels.get("prefect.worker.name") in [worker.name for worker in workers]:
            return None
    return _CANCELLED if run.state.type == StateType.CANCELLING else again("its worker is gone before the run began")


def cancel(flow_run: str, message: str) -> None:
    """Marks a flow run as cancelled, whatever its state."""
    with get_client(sync_client=True) as client:
        _force(client, UUID(flow_run), Cancelled(message=message))


def _force(client: SyncPrefectClient, flow_run: UUID, state: State) -> None:
    client.set_flow_run_state(flow_run, state, force=True)


def _record_of(runs: AllRuns, run: str | None) -> RunRecord | None:
    try:
        return runs.get(run).record if run else None
    except FewstepError:
        return None


def _true_state(record: RunRecord | None) -> State:
    if record is None:
        return Crashed(message="its process is gone")
    if record.state == FINISHED:
        return Completed(message="every stage is done")
    state = {FAILED: Failed, CANCELLED: Cancelled}.get(record.state, Crashed)
    return state(message=f"its process is gone; continue with: {record.resume_command}")
