"""How many threads one operation uses on a CPU: a part of the fingerprint, and of speed on a machine that others use.

Operations of small networks on several threads wait for each other: under load on two cores, two threads train a UNet
of 8 x 8 images at a tenth of the speed of one.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

ELEMENTS_PER_THREAD = 2**16
"""Values in a batch of samples, below which another thread costs more than it brings."""


def useful_threads(elements: int) -> int:
    """Threads for batches of `elements` values: 1 for small ones, at most one per core and what the user allows."""
    allowed = int(os.environ.get("OMP_NUM_THREADS", "0") or 0) or len(os.sched_getaffinity(0))
    return max(1, min(elements // ELEMENTS_PER_THREAD, allowed))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Inside, PyTorch and the linear algebra libraries use `count` threads; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)
