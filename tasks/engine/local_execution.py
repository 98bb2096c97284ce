"""Units of work in this process: one after another, or in threads."""

from __future__ import annotations

from collections.abc import Callable

from fewstep.util import workers
from tasks.engine.unit_work import UnitWork

Execute = Callable[[UnitWork, list[str]], None]
"""`execute(work, units)` has every one of these units of the work done, here or elsewhere."""


def in_threads(count: int) -> Execute:
    """Run units one after another, or independent units in `count` threads with one torch thread each."""

    def execute(work: UnitWork, units: list[str]) -> None:
        workers.in_threads(count if work.stage.parallel else 1)(work, units)

    return execute
