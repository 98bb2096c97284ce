"""How much faster one model is than another, as a ratio with an interval that needs no assumption about the noise."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fewstep.metrics.distances.intervals import Interval


@dataclass(frozen=True)
class Ratio:
    """Median of the rounds' ratios, its 95 % interval and the number of rounds."""

    value: float
    interval: Interval
    n: int


def latency_ratio(first: Callable[[], object], second: Callable[[], object], rounds: int = 41,
                  clock: Callable[[], float] = time.perf_counter) -> Ratio:  # fmt: skip
    """Duration of `first` over that of `second`, called in turn so that both see the same machine.

    Args:
        first, second: return when their work is done.
        rounds: pairs of calls after two that do not count; at least 10.
        clock: returns seconds.
    """
    ratios = []
    for turn in range(rounds + 2):
        took = []
        for work in (first, second) if turn % 2 else (second, first):
            start = clock()
            work()
            took.append(clock() - start)
        if turn >= 2:
            ratios.append(took[0] / took[1] if turn % 2 else took[1] / took[0])
    ordered, half = np.sort(ratios), 0.98 * rounds**0.5
    low, high = int(np.floor(rounds / 2 - half)), int(np.ceil(rounds / 2 + half))
    interval = float(ordered[max(0, low)]), float(ordered[min(rounds - 1, high)])
    return Ratio(float(np.median(ordered)), interval, rounds)
