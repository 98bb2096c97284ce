"""The units of work of a stage as Prefect tasks: independent units side by side, rounds one after the other.

Every task appears in Prefect's picture of the run under a name of its own. A task calls a function of this process,
which Prefect neither pickles, hashes nor stores, and which has the unit done wherever the engine does it. Errors are
not tried again here: the stage's task does that (flows.orchestration.pipeline_flow), and its next attempt finds the
units that this one finished.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TypedDict

from prefect import task
from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

from flows.executors.engines import Engines
from flows.executors.transient_errors import is_transient
from tasks.engine.local_execution import Execute
from tasks.engine.unit_work import UnitWork
from tasks.tracking.redacted_logs import without_secrets

MOST_TASKS = 200        # Prefect records every task; beyond this a task takes several units


class InProcess(TypedDict):
    """Options of a Prefect task whose arguments and result stay in this process."""

    cache_policy: CachePolicy
    persist_result: bool


IN_PROCESS: InProcess = {"cache_policy": NO_CACHE, "persist_result": False}


def prefect_tasks(engines: Engines) -> Execute:
    """The executor of a stage inside a Prefect flow; its engine says how many units run at once.

    It raises the first error of a unit, after the units under way have ended. After an error that trying again will not
    cure, no further unit is begun.
    """

    def execute(work: UnitWork, units: list[str]) -> None:
        if not units:
            return      # no engine is opened for nothing
        engine, stage = engines.of(work), work.stage.name
        groups = grouped(units, MOST_TASKS)
        labels = [f"{stage}: " + (group[0] if len(group) == 1 else f"{group[0]} … {group[-1]}") for group in groups]
        begun = _Begun(partial(engine.run, work))
        run_units = task(begun.run_units, name="units", task_run_name="{label}", **IN_PROCESS)
        if engine.width == 1 or len(groups) == 1:
            for label, group in zip(labels, groups, strict=True):
                run_units(label, group)
            return
        try:
            with engine.side_by_side() as begun.begin, ThreadPoolTaskRunner(max_workers=engine.width) as runner:
                errors = [_error(future) for future in runner.map(run_units, {"label": labels, "units": groups})]
        finally:
            begun.stop.set()
        for error in errors:
            if error is not None:
                raise error

    return execute


def grouped(units: list[str], most: int) -> list[list[str]]:
    """`units` in order, in at most `most` lists; each alone where there are no more units than that."""
    size = max(1, -(-len(units) // most))
    return [units[first:first + size] for first in range(0, len(units), size)]


class _Begun:
    """What the tasks of one stage share.

    Attributes:
        run_unit: does one unit of work.
        begin: called by each thread before its first unit.
        stop: set when no further unit is to be begun.
    """

    def __init__(self, run_unit: Callable[[str], None]):
        self.run_unit, self.stop = run_unit, threading.Event()
        self.begin: Callable[[], None] = lambda: None

    @without_secrets()
    def run_units(self, label: str, units: list[str]) -> int:
        """Run `units` one after the other; returns how many were done. Prefect shows `label`."""
        self.begin()
        for number, unit in enumerate(units):
            if self.stop.is_set():
                return number
            try:
                self.run_unit(unit)
            except Exception as error:
                if not is_transient(error):
                    self.stop.set()
                raise
        return len(units)


def _error(future: PrefectFuture) -> Exception | None:
    """Waits for the task and returns what it raised."""
    try:
        future.result()
    except Exception as error:
        return error
    return None
