"""The flow that a worker of a Prefect work pool runs for `compute.on: pool:NAME`: it does unit after unit."""

from __future__ import annotations

import json
import time

import prefect.runtime
from prefect import flow
from prefect.client.orchestration import get_client

from fewstep.util.errors import StageFailed
from flows.executors.flow_run_inputs import Inputs
from tasks.engine.unit_work import UnitMessage
from tasks.tracking.redacted_logs import redact_logs_and_tracebacks
from tasks.unit import Units, done

NAME = "fewstep-units"
ENTRYPOINT = "flows/executors/pool_worker.py:do_units"
TO_WORKER, PULSE, FROM_WORKER = "unit", "pulse", "event"
"""Inputs: units to be done (an empty text: no more), signs of the run's life, and what is told of the unit under way,
as `tasks.unit` tells it."""
PAUSE = 0.5             # seconds between two looks
PULSE_SECONDS = 30
SILENCE = 10 * PULSE_SECONDS


@flow(name=NAME, persist_result=False)
def do_units() -> int:
    """Does the units that a run leaves in this flow run's inputs, until it says that there are no more. Returns how
    many they were. Raises StageFailed where the run falls silent."""
    redact_logs_and_tracebacks()
    own, units, count, heard = prefect.runtime.flow_run.id, Units(), 0, time.monotonic()
    with get_client(sync_client=True) as client:
        asked, pulse, answers = (Inputs(client, own, name) for name in (TO_WORKER, PULSE, FROM_WORKER))
        while True:
            for text in asked.read():
                if not text:
                    units.close()
                    return count
                done(units, UnitMessage.model_validate_json(text), lambda event: answers.write(json.dumps(event)))
                count, heard = count + 1, time.monotonic()
            if pulse.read():
                heard = time.monotonic()
            if time.monotonic() - heard > SILENCE:
                raise StageFailed(f"nothing was heard of the run for {SILENCE} s: it has ended")
            time.sleep(PAUSE)
