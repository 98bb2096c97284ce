"""How many threads one operation uses on a CPU: a part of the fingerprint, and of speed on a machine that others use.

Operations of small networks on several threads wait for each other: under load on two cores, two threads train a UNet
of 8 x 8 images at a tenth of the speed of one.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

from fewstep.util.cores import cores

ELEMENTS_PER_THREAD = 2**16
"""Values in a batch of samples, below which another thread costs more than it brings."""


def useful_threads(elements: int, parts: int = 1) -> int:
    """Threads for each of `parts` equal parts of a batch of `elements` values: 1 for small ones, and at most a part's
    share of what the user allows, else of the cores. The number of threads decides bits: it must not depend on how many
    processes share the parts.
    """
    allowed = int(os.environ.get("OMP_NUM_THREADS", "0") or 0) or cores()
    return max(1, min(elements // parts // ELEMENTS_PER_THREAD, allowed // parts))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Inside, PyTorch and the linear algebra libraries use `count` threads; afterwards as many as before."""
    with _restored():
        torch.set_num_threads(count)
        with threadpool_limits(count):
            yield


@contextmanager
def one_thread_each() -> Iterator[Callable[[], None]]:
    """For operations in several Python threads at once: each thread calls the function that this yields and computes
    with one thread of its own from then on; afterwards PyTorch uses as many as before.

    The bits then cannot depend on how many workers share the machine, and workers on all cores are faster than
    operations on all cores. Only PyTorch's number is set: that of the linear algebra libraries belongs to the process.
    """
    with _restored():
        yield lambda: torch.set_num_threads(1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, operations of this Python thread use one thread; other Python threads may do the same at that time."""
    with one_thread_each() as begin:
        begin()
        yield


@contextmanager
def _restored() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
