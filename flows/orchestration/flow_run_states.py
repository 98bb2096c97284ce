"""States of flow runs on the Prefect server: what `fewstep` sets where a process could not do it itself."""

from __future__ import annotations

from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import State
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelled, Completed, Crashed, Failed

from fewstep.util.errors import FewstepError
from flows.orchestration.flow_run_locks import forget, holds, known_here
from tasks.storage.workspace import Workspace
from tasks.tracking.run_record import CANCELLED, FAILED, FINISHED, RunRecord
from tasks.tracking.run_records import RunStore

LOOKS_ALIVE = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]


def settle_flow_runs(workspace: Workspace, store: RunStore) -> list[str]:
    """Gives flow runs of this machine that look alive, and that no process works on, the state they ended in.

    Returns a line for each. Raises NotAvailable where the store that hosts share does not answer.
    """
    lines = []
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(like_="fewstep")),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=LOOKS_ALIVE))))
        for run in runs:
            record = _record_of(store, run.parameters.get("run"))
            if record is None:
                dead = known_here(workspace, str(run.id)) and not holds(workspace, str(run.id))
            else:
                dead = store.abandoned(record.id)
            if not dead:
                continue
            state = _true_state(record)
            _force(client, run.id, state)
            forget(workspace, str(run.id))
            lines.append(f"{run.name}: {run.state.name} → {state.name}")
    return lines


def cancel(flow_run: str, message: str) -> None:
    """Marks a flow run as cancelled, whatever its state."""
    with get_client(sync_client=True) as client:
        _force(client, UUID(flow_run), Cancelled(message=message))


def _force(client: SyncPrefectClient, flow_run: UUID, state: State) -> None:
    client.set_flow_run_state(flow_run, state, force=True)


def _record_of(store: RunStore, run: str | None) -> RunRecord | None:
    try:
        return store.load(run) if run else None
    except FewstepError:
        return None


def _true_state(record: RunRecord | None) -> State:
    if record is None:
        return Crashed(message="its process is gone")
    if record.state == FINISHED:
        return Completed(message="every stage is done")
    state = {FAILED: Failed, CANCELLED: Cancelled}.get(record.state, Crashed)
    return state(message=f"its process is gone; continue with: {record.resume_command}")
