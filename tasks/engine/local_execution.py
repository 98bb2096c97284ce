"""Units of work in this process: one after another, or in threads."""

from __future__ import annotations

from collections.abc import Callable

from fewstep.util import workers

Execute = Callable[[Callable[[str], None], list[str], bool], None]
"""`execute(work, units, parallel)` calls `work` on every unit; `parallel`: whether several may run at once."""


def in_threads(count: int) -> Execute:
    """Run units one after another, or independent units in `count` threads with one torch thread each."""

    def execute(work: Callable[[str], None], units: list[str], parallel: bool) -> None:
        workers.in_threads(count if parallel else 1)(work, units)

    return execute
