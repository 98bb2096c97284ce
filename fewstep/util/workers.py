"""Independent units of work on several threads of this process. Torch is loaded only where they run side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

Unit = TypeVar("Unit")
Execute = Callable[[Callable[[Unit], None], Iterable[Unit]], None]


def in_threads(workers: int) -> Execute:
    """A function that calls `work(unit)` for every unit, on `workers` threads that compute with one thread each.

    The first error is raised when the units under way have ended; what had not begun is left out. One worker, or one
    unit, runs in the calling thread.
    """

    def execute(work: Callable[[Unit], None], units: Iterable[Unit]) -> None:
        units = list(units)
        count = min(workers, len(units))
        if count <= 1:
            for unit in units:
                work(unit)
            return
        from fewstep.util.torch_threads import one_thread_each  # torch: a run with nothing to do never loads it

        with one_thread_each() as begin:
            pool = ThreadPoolExecutor(count, thread_name_prefix="units", initializer=begin)
            try:
                for future in as_completed([pool.submit(work, unit) for unit in units]):
                    future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    return execute
