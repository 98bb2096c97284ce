"""The cycle of sizes: shares, positions and turns, as functions of the step alone."""

from collections import Counter

import pytest

from fewstep.training.step.size_cycle import SizeCycle


def test_one_size_is_every_step():
    assert [SizeCycle((7,), 3).at(step) for step in range(4)] == [(0, 0), (0, 1), (0, 2), (0, 3)]


@pytest.mark.parametrize("counts", [(10, 10), (100, 50, 25), (1, 5000), (3, 0, 9), (0, 4, 4)])
@pytest.mark.parametrize("turns", [1, 3])
def test_shares_follow_the_counts_and_positions_count_up(counts, turns):
    cycle, seen = SizeCycle(counts, turns), Counter()
    steps = 40 * (64 + len(counts)) * turns
    for step in range(steps):
        size, before = cycle.at(step)
        assert counts[size] and before == seen[size], "the earlier steps of a size are counted without a gap"
        assert size == cycle.at(step - step % turns)[0], "all roles have their turns at a size"
        seen[size] += 1
    assert cycle.at(0)[0] == next(k for k, count in enumerate(counts) if count)
    assert cycle.sizes == [k for k, count in enumerate(counts) if count] == sorted(seen)
    for k, count in enumerate(counts):
        assert abs(seen[k] / steps - count / sum(counts)) < 0.04


def test_sizes_alternate_as_evenly_as_their_shares_allow():
    order = [SizeCycle((2, 1)).at(step)[0] for step in range(66)]
    assert max(len(list(run)) for run in "".join(map(str, order)).split("1")) <= 3
