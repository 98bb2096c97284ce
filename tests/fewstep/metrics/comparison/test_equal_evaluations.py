"""The number of evaluations that equals a student: points, sets, flat curves, and how often the set holds the truth."""

import numpy as np
import pytest

from fewstep.metrics.comparison.equal_evaluations import equivalent_evaluations
from fewstep.util.errors import SettingsError

COUNTS = [1, 2, 4, 8, 16]


def exact(values: list[float], mine: float, **kwargs):
    flat = [np.full((2, 24), value) for value in values]
    return equivalent_evaluations(COUNTS, values, flat, mine, np.full((2, 24), mine), **kwargs)


def test_a_power_law_is_met_exactly_between_two_counts():
    values = [0.5 / n for n in COUNTS]
    for wanted in (1, 3, 5.5, 16):
        found = exact(values, 0.5 / wanted)
        assert found.evaluations == pytest.approx(wanted, rel=1e-6)
    assert exact(values, 0.01).evaluations is None  # better than anything that was tried
    assert exact(values, 0.9).evaluations == 1  # worse than the cheapest
    shifted = exact([value - 0.2 for value in values], 0.5 / 3 - 0.2)  # negative values: linear
    assert 2 < shifted.evaluations < 4


def world(seed: int, floor: float, student: float, noise: float = 0.004):
    """Means of 24 groups; the solver's error is a/n above the floor, and all models share most of the noise."""
    source = np.random.default_rng(seed)
    shared = source.normal(0, 5 * noise, (2, 24))

    def observed(truth: float):
        groups = truth + shared + source.normal(0, noise * 24**0.5, (2, 24))
        return groups.mean(), np.stack([(row.sum() - row) / 23 - row.mean() + groups.mean() for row in groups])

    made = [observed(floor + 0.4 / n) for n in COUNTS]
    mine, replicates = observed(student)
    return equivalent_evaluations(COUNTS, [value for value, _ in made], [one for _, one in made], mine, replicates)


def test_the_set_holds_the_truth_and_is_open_where_the_curve_is_flat():
    inside = 0
    for seed in range(60):
        found = world(seed, floor=0.05, student=0.05 + 0.4 / 4)
        inside += (found.low or 1) <= 4 <= (found.high or 16)
    assert inside >= 50  # at 95 % fewer happen once in 1e4
    flat = world(1, floor=0.5, student=0.5 + 0.4 / 16)
    assert flat.high is None and flat.low > 4


def test_what_cannot_be_interpolated_is_refused():
    with pytest.raises(SettingsError, match="increasing counts"):
        equivalent_evaluations([2, 1], [1.0, 2.0], [np.zeros((2, 3))] * 2, 1.0, np.zeros((2, 3)))
