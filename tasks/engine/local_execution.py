"""Units of work in this process: one after another, or in threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed

Execute = Callable[[Callable[[str], None], list[str], bool], None]
"""`execute(work, units, parallel)` calls `work` on every unit; `parallel`: whether several may run at once."""


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def in_threads(workers: int) -> Execute:
    """Run units one after another, or independent units in `workers` threads with one torch thread each."""

    def execute(work: Callable[[str], None], units: list[str], parallel: bool) -> None:
        count = min(workers, len(units))
        if not parallel or count <= 1:
            for unit in units:
                work(unit)
            return
        import torch  # here: what has no units to run does not wait for it

        threads = torch.get_num_threads()
        pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
        try:
            for future in as_completed([pool.submit(work, unit) for unit in units]):
                future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(threads)

    return execute
