"""A flow run that a worker of a pool does for a run here: what is said to it and heard of it, and its end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import count
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling

from flows.executors.engine import Hearer, Lost, heard
from flows.executors.flow_run_inputs import Inputs
from flows.executors.pool_worker import FROM_WORKER, PAUSE, PULSE, TO_WORKER
from tasks.engine.group.nodes import Link
from tasks.engine.unit_work import UnitMessage

_LOOKS = 10     # for what is told, to one at the flow run's state


class PoolRun:
    """A flow run of `pool_worker.do_units`.

    Attributes:
        busy: whether it does something that it was told, and hears nothing meanwhile.
        over: whether it was told to end, or seen to have ended: it needs no pulse.
    """

    def __init__(self, client: SyncPrefectClient, flow_run: UUID):
        self._client, self._flow_run, self._looks = client, flow_run, count()
        self.busy = self.over = False
        self._asked, self._pulse, self._told = (
            Inputs(client, flow_run, name) for name in (TO_WORKER, PULSE, FROM_WORKER))  # fmt: skip

    @property
    def alive(self) -> bool:
        return self._ended() is None

    def pulse(self) -> None:
        """Tell it that the run lives."""
        self._pulse.write(".")

    def say(self, text: str) -> None:
        """Tell it what to do, or answer it. It begins when a worker of the pool has started it."""
        self.busy = True
        self._asked.write(text)

    def heard(self) -> list[dict[str, Any]]:
        """What it has told since the last time. Raises Lost where that is nothing, as it has ended."""
        ended = self._ended() if next(self._looks) % _LOOKS == 0 else None  # before what it told: then all is there
        events = [json.loads(text) for text in self._told.read()]
        if any("done" in event or "error" in event for event in events):
            self.busy = False       # it waits for what comes next after either
        if ended is not None and not events:
            self.over = True
            raise Lost(ended)
        return events

    def do(self, work: Hearer, message: UnitMessage) -> None:
        """See Doer."""
        self.say(message.model_dump_json())
        while True:
            for event in self.heard():
                if heard(work, event):
                    return
            time.sleep(PAUSE)

    def end(self) -> None:
        """Ends it by its next look at its inputs; one that has not begun, or is in the middle of a unit, by its
        worker."""
        self.over = True
        try:
            state = self._client.read_flow_run(self._flow_run).state
        except ObjectNotFound:
            return
        if state.is_final():
            return
        if state.is_running() and not self.busy:
            self._asked.write("")
        else:
            end = Cancelling if state.is_running() else Cancelled
            self._client.set_flow_run_state(self._flow_run, end(message="its run has ended"), force=True)

    def _ended(self) -> str | None:
        """How it ended; None for one that may go on."""
        try:
            state = self._client.read_flow_run(self._flow_run).state
        except ObjectNotFound:
            return "is gone from Prefect's server"
        return f"ended as {state.name}: {state.message or 'no reason was given'}" if state.is_final() else None


class PoolLink(Link):
    """A flow run that takes part in a training. waits_for: what runs of the pool may be waiting for, in words."""

    def __init__(self, name: str, run: PoolRun, waits_for: Callable[[], str]):
        super().__init__(name)
        self.run, self._again, self._waits_for = run, 0.0, waits_for
        self._events: list[dict[str, Any]] = []

    @property
    def awaited(self) -> str:
        return f"{self.name} ({self._waits_for()})"

    def say(self, what: dict[str, Any]) -> None:
        """See Link."""
        self.run.say(json.dumps(what))

    def _next(self) -> dict[str, Any]:
        if not self._events and time.monotonic() >= self._again:
            try:
                self._events += self.run.heard()
            except Lost as lost:
                raise self._lost(str(lost)) from lost
            self._again = time.monotonic() + PAUSE
        return self._events.pop(0) if self._events else {}

    def end(self) -> None:
        """See Link."""
        self.run.end()
