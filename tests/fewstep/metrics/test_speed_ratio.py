"""How much faster one model is than another, on a machine whose speed changes."""

import itertools

import pytest

from fewstep.metrics.speed_ratio import latency_ratio


def test_latency_is_a_ratio_of_neighbours_in_time():
    """A machine that slows down by a quarter in every call: the ratio of neighbours knows nothing of it."""
    ticks = itertools.count()
    now = [0.0]

    def work(duration):
        now[0] += duration * 1.25 ** (next(ticks) // 2)

    found = latency_ratio(lambda: work(3.0), lambda: work(4.0), rounds=21, clock=lambda: now[0])
    assert found.value == pytest.approx(0.75) and found.interval == pytest.approx((0.75, 0.75)) and found.n == 21
