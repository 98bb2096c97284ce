"""The flow that a worker of a Prefect work pool runs for `compute.on: pool:NAME`: it does unit after unit, or takes
part in a training."""

from __future__ import annotations

import collections
import json
import time
from typing import Any
from uuid import UUID

import prefect.runtime
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client

from fewstep.util.errors import StageFailed
from fewstep.util.plain_data import from_json
from flows.executors.flow_run_inputs import Inputs
from tasks.engine.group.share import Share
from tasks.engine.unit_work import UnitMessage
from tasks.tracking.redacted_logs import redact_logs_and_tracebacks
from tasks.unit import Units, done, shared

NAME = "fewstep-units"
ENTRYPOINT = "flows/executors/pool_worker.py:do_units"
TO_WORKER, PULSE, FROM_WORKER = "unit", "pulse", "event"
"""Inputs: what is to be done (an empty text: no more), signs of the run's life, and what is told of the unit under way,
as `tasks.unit` tells it."""
PAUSE = 0.5             # seconds between two looks
PULSE_SECONDS = 30
SILENCE = 10 * PULSE_SECONDS


class Run:
    """The run that has begun this flow run, as it is heard here."""

    def __init__(self, client: SyncPrefectClient, flow_run: UUID):
        self._asked, self._pulse = (Inputs(client, flow_run, name) for name in (TO_WORKER, PULSE))
        self._texts: collections.deque[str] = collections.deque()

    def next(self) -> str:
        """What it says next, "" for nothing more. Raises StageFailed where it falls silent."""
        heard = time.monotonic()
        while True:
            self._texts += self._asked.read()
            if self._texts:
                return self._texts.popleft()
            if self._pulse.read():
                heard = time.monotonic()
            if time.monotonic() - heard > SILENCE:
                raise StageFailed(f"nothing was heard of the run for {SILENCE} s: it has ended")
            time.sleep(PAUSE)


@flow(name=NAME, persist_result=False)
def do_units() -> int:
    """Does the units that a run leaves in this flow run's inputs, until it says that there are no more. Returns how
    many they were. Raises StageFailed where the run falls silent."""
    redact_logs_and_tracebacks()
    own, units, count = prefect.runtime.flow_run.id, Units(), 0
    with get_client(sync_client=True) as client:
        run, answers = Run(client, own), Inputs(client, own, FROM_WORKER)

        def tell(event: dict[str, Any]) -> None:
            answers.write(json.dumps(event))

        while text := run.next():
            given = from_json(text)
            if "share" in given:
                shared(Share.model_validate(given["share"]), run.next, tell)
            else:
                done(units, UnitMessage.model_validate_json(text), tell)
            count += 1
        units.close()
        return count
