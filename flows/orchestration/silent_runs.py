"""The automations on a Prefect server that act where a flow run is not heard of any more: its process is gone.

Any run makes them, as a server that is there for many may never be served by `fewstep serve`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.states import StateType

from flows.orchestration.prefect_api import HEARTBEAT

TAG, POOL_TAG = "fewstep", "fewstep-pool"     # of flow runs: those that a person or `fewstep serve` began, a pool's
SILENCE = 6 * HEARTBEAT     # seconds
ALREADY_RUNNING = "Already running"     # name of the state in which a trigger ends that another one was quicker than
_HEARTBEAT, _CANCELLING = "prefect.flow-run.heartbeat", "prefect.flow-run.Cancelling"
_FINAL = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed", ALREADY_RUNNING)}


@dataclass(frozen=True)
class Silence:
    """What happens to flow runs with one of the tags `of` where none of the events `expected` follows on `after`."""

    of: tuple[str, ...]
    after: str
    expected: frozenset[str]
    action: ChangeFlowRunState


_OF_WORK = frozenset({_HEARTBEAT, _CANCELLING, *_FINAL})    # what a person cancelled is not begun again
ACTIONS = {
    "fewstep: mark silent runs as crashed": Silence((TAG,), _HEARTBEAT, _OF_WORK, ChangeFlowRunState(
        state=StateType.CRASHED, message="no heartbeat: its process is gone")),
    "fewstep: let the next worker continue silent runs": Silence((POOL_TAG,), _HEARTBEAT, _OF_WORK, ChangeFlowRunState(
        state=StateType.SCHEDULED, name="Resuming",
        message="no heartbeat: its worker is gone, the next one continues it")),
    "fewstep: end runs that were cancelled": Silence((TAG, POOL_TAG), _CANCELLING, frozenset(_FINAL),
                                                     ChangeFlowRunState(
        state=StateType.CANCELLED, message="its process is gone before it ended as it was told to")),
}  # fmt: skip


def ensure_automations(silence: float = SILENCE) -> None:
    """Makes the automations on the server that this process talks to, where they are missing; of several that were
    made at once one stays. `silence`: seconds without an event."""
    with get_client(sync_client=True) as client:
        for name, what in ACTIONS.items():
            if not client.read_automations_by_name(name):
                client.create_automation(_automation(name, what, silence))
                _keep_one(client, name)


def _keep_one(client: SyncPrefectClient, name: str) -> None:
    found = sorted(client.read_automations_by_name(name), key=lambda automation: str(automation.id))
    for later in found[1:]:
        client.delete_automation(later.id)


def _automation(name: str, what: Silence, silence: float) -> AutomationCore:
    trigger = EventTrigger(
        after={what.after}, expect=set(what.expected),
        match={"prefect.resource.id": "prefect.flow-run.*"}, for_each={"prefect.resource.id"},
        match_related={"prefect.resource.role": "tag",
                       "prefect.resource.id": [f"prefect.tag.{tag}" for tag in what.of]},
        posture=Posture.Proactive, threshold=1, within=timedelta(seconds=silence))
    return AutomationCore(name=name, description="Made by a run; `fewstep reconcile` does this without a server.",
                          trigger=trigger, actions=[what.action])
