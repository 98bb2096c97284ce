"""The automation on a Prefect server that marks flow runs without a heartbeat as crashed."""

from __future__ import annotations

from datetime import timedelta

from prefect.client.orchestration import get_client
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.states import StateType

from flows.orchestration.prefect_api import HEARTBEAT

NAME = "fewstep: mark silent runs as crashed"
SILENCE = 6 * HEARTBEAT     # seconds


async def create_automation() -> None:
    """Makes the automation on the server that this process talks to, once."""
    async with get_client() as client:
        if await client.read_automations_by_name(NAME):
            return
        final = [f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Cancelled", "Crashed")]
        await client.create_automation(AutomationCore(
            name=NAME, description="Created by `fewstep serve`; `fewstep reconcile` does this without a server.",
            trigger=EventTrigger(after={"prefect.flow-run.heartbeat"}, expect={"prefect.flow-run.heartbeat", *final},
                                 match={"prefect.resource.id": "prefect.flow-run.*"},
                                 match_related={"prefect.resource.role": "tag",
                                                "prefect.resource.id": "prefect.tag.fewstep"},
                                 for_each={"prefect.resource.id"}, posture=Posture.Proactive, threshold=1,
                                 within=timedelta(seconds=SILENCE)),
            actions=[ChangeFlowRunState(state=StateType.CRASHED, message="no heartbeat: its process is gone")]))
