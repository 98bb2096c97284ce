"""How a flow run of a work pool passes from a worker that is gone to the next one: it is scheduled again under its id,
and a tag, which outlives the host, says which run it works on."""

from __future__ import annotations

from collections.abc import Iterable

import prefect.runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas import State
from prefect.client.schemas.objects import StateType
from prefect.exceptions import Abort
from prefect.states import Scheduled

_TAG = "fewstep-run:"


def note_run(run: str) -> None:
    """This flow run works on `run` from now on."""
    tags = [tag for tag in prefect.runtime.flow_run.tags if not tag.startswith(_TAG)]
    with get_client(sync_client=True) as client:
        client.update_flow_run(prefect.runtime.flow_run.id, tags=[*tags, _TAG + run])


def noted_run() -> str | None:
    """The run that this flow run worked on when it was begun before; None for a new one."""
    return run_in(prefect.runtime.flow_run.tags)


def run_in(tags: Iterable[str]) -> str | None:
    """The run that these tags of a flow run name."""
    return next((tag.removeprefix(_TAG) for tag in tags if tag.startswith(_TAG)), None)


def again(message: str) -> State:
    """The state in which the next worker takes a flow run."""
    return Scheduled(name="Resuming", message=message)


def leave_to_next_worker() -> None:
    """Called where this flow run was told to stop: raises Prefect's Abort, which ends this process's part in it, where
    another worker is to go on. Returns where it is no work pool's, or a person cancelled it."""
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(prefect.runtime.flow_run.id)
        if run.work_pool_name is None or run.state.type == StateType.CANCELLING:
            return
        state = again("its worker was told to stop, the next one continues it")
        client.set_flow_run_state(run.id, state, force=True)
    abort = Abort(state.message)
    abort.state = state     # as Prefect's own: the engine sets no other
    raise abort
