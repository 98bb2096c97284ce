"""Units as flow runs of a Prefect work pool, and nodes that take part in a training; its workers start processes,
containers or Kubernetes jobs.

A worker clones the run's commit. Each flow run does unit after unit, and hears and tells of them by its inputs on the
Prefect server. Inputs and outputs of units go through the store that hosts share; what a unit gets of a machine is what
the pool's template gives its jobs.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, suppress

import httpx
import prefect.runtime
from prefect.client.orchestration import SyncPrefectClient, get_client

from flows.executors.engine import Kept
from flows.executors.pool_run import PoolLink, PoolRun
from flows.executors.pool_worker import ENTRYPOINT, NAME, PULSE_SECONDS
from flows.orchestration.pools import clone_step, created, how_it_stands, require_pool
from flows.orchestration.silent_runs import TAG, ensure_automations
from tasks.config.schema import UnitResources
from tasks.engine.group.nodes import Link
from tasks.storage.cloneable import Cloneable


class WorkPool(Kept):
    """The pool called `name` on the server that this process talks to; its workers get the code `source`.

    Raises NotAvailable without such a pool, FewstepError for what Prefect refuses.
    """

    attempts = 3

    def __init__(self, name: str, units: UnitResources, source: Cloneable):
        self._name, self._width, self._over, self._stack = name, units.most, threading.Event(), ExitStack()
        self._sharing: list[PoolRun] = []
        self._client: SyncPrefectClient = self._stack.enter_context(get_client(sync_client=True))
        super().__init__()
        self._own = prefect.runtime.flow_run.id
        try:
            require_pool(self._client, name)
            ensure_automations()    # one whose host is gone says nothing more, and its state would stay as it is
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

    def waits_for(self) -> str:
        """See Kept: how the pool stands."""
        try:
            return how_it_stands(self._client, self._name, self._own)
        except httpx.HTTPError as error:
            return f"the Prefect server does not answer: {error}"

    def take_part(self, count: int, each: int) -> list[Link]:
        """See Cluster. What a flow run gets of a machine is the pool's matter, and so is how many are on one."""
        links = [PoolLink(f"node {number + 2}, by a worker of the pool", self.start(number), self.waits_for)
                 for number in range(count)]  # fmt: skip
        self._sharing = [run for run in self._sharing if not run.over] + [link.run for link in links]
        return links

    def close(self) -> None:
        self._over.set()
        self._pulse.join()
        super().close()
        self._stack.close()

    def _pulses(self) -> None:
        """Tell those who do units that this run lives."""
        while not self._over.wait(PULSE_SECONDS):
            for run in [*self._kept.values(), *self._sharing]:
                if run.over:
                    continue
                with suppress(httpx.HTTPError):     # the server is away, or the flow run: said where a unit waits
                    run.pulse()


