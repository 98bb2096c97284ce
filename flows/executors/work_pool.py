"""Units as flow runs of a Prefect work pool, whose workers start processes, containers or Kubernetes jobs.

A worker clones the run's commit. Each flow run does unit after unit, and hears and tells of them by its inputs on the
Prefect server. Inputs and outputs of units go through the store that hosts share; what a unit gets of a machine is what
the pool's template gives its jobs.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack, suppress
from itertools import count
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling

from flows.executors.engine import Hearer, Kept, Lost, heard
from flows.executors.flow_run_inputs import Inputs
from flows.executors.pool_worker import ENTRYPOINT, FROM_WORKER, NAME, PAUSE, PULSE, PULSE_SECONDS, TO_WORKER
from flows.orchestration.pools import clone_step, created, require_pool
from flows.orchestration.silent_runs import TAG
from tasks.config.schema import UnitResources
from tasks.engine.unit_work import UnitMessage
from tasks.storage.cloneable import Cloneable

_LOOKS = 10     # for what is told, to one at the flow run's state


class WorkPool(Kept):
    """The pool called `name` on the server that this process talks to; its workers get the code `source`.

    Raises NotAvailable without such a pool, FewstepError for what Prefect refuses.
    """

    attempts = 3

    def __init__(self, name: str, units: UnitResources, source: Cloneable):
        self._width, self._over, self._stack = units.most, threading.Event(), ExitStack()
        self._client: SyncPrefectClient = self._stack.enter_context(get_client(sync_client=True))
        super().__init__()
        try:
            require_pool(self._client, name)
            self._deployment = created(self._client, NAME, f"{name}-{source.commit[:12]}", name, source.commit,
                                       entrypoint=ENTRYPOINT, tags=[TAG], pull_steps=[clone_step(source)])
        except BaseException:
            self._stack.close()
            raise
        self._pulse = threading.Thread(target=self._pulses, daemon=True)
        self._pulse.start()

    @property
    def width(self) -> int:
        return self._width

    def start(self, place: int) -> PoolRun:
        run = self._client.create_flow_run_from_deployment(self._deployment, tags=[TAG])
        return PoolRun(self._client, run.id)

    def close(self) -> None:
        self._over.set()
        self._pulse.join()
        super().close()
        self._stack.close()

    def _pulses(self) -> None:
        """Tell those who do units that this run lives."""
        while not self._over.wait(PULSE_SECONDS):
            for run in list(self._kept.values()):
                with suppress(httpx.HTTPError):     # the server is away, or the flow run: said where a unit waits
                    run.pulse()


class PoolRun:
    """A flow run that does units."""

    def __init__(self, client: SyncPrefectClient, flow_run: UUID):
        self._client, self._flow_run, self._busy = client, flow_run, False
        self._asked, self._pulse, self._told = (
            Inputs(client, flow_run, name) for name in (TO_WORKER, PULSE, FROM_WORKER))  # fmt: skip

    @property
    def alive(self) -> bool:
        return self._ended() is None

    def pulse(self) -> None:
        """Tell it that the run lives."""
        self._pulse.write(".")

    def do(self, work: Hearer, message: UnitMessage) -> None:
        """See Doer. It begins when a worker of the pool has started it."""
        self._busy = True
        self._asked.write(message.model_dump_json())
        for look in count():
            ended = self._ended() if look % _LOOKS == 0 else None   # before what it told: all is there when it ended
            for event in map(json.loads, self._told.read()):
                self._busy = "done" not in event and "error" not in event   # it waits for the next unit after either
                if heard(work, event):
                    return
            if ended is not None:
                raise Lost(ended)
            time.sleep(PAUSE)

    def end(self) -> None:
        """Ends it by its next look at its inputs; one that has not begun, or is in the middle of a unit, by its
        worker."""
        with suppress(ObjectNotFound):
            state = self._client.read_flow_run(self._flow_run).state
            if state.is_final():
                return
            if state.is_running() and not self._busy:
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
