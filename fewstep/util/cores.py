"""The processor cores that this process may use."""

import os


def cores() -> int:
    """CPU cores that this process may use (its affinity, which containers and `taskset` lower)."""
    return len(os.sched_getaffinity(0))
