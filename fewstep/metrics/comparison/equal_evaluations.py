"""How many network evaluations a training-free solver needs to be as good as a student."""

import math
from dataclasses import dataclass

import numpy as np

from fewstep.metrics.distances.intervals import jackknife_variance
from fewstep.metrics.protocol import NORMAL_QUANTILE
from fewstep.util.errors import SettingsError

_GRID = 24  # points between two measured counts


@dataclass(frozen=True)
class Equivalent:
    """`evaluations` at which the solver's curve reaches the student's value; None where it does not within the counts
    that were measured. `low` and `high` bound the counts at which both cannot be told apart at 95 %; None: there is no
    bound within the counts that were measured (both None: they differ everywhere)."""

    evaluations: float | None
    low: float | None
    high: float | None


def equivalent_evaluations(counts: list[int], values: list[float], replicates: list[np.ndarray], mine: float,
                           my_replicates: np.ndarray) -> Equivalent:  # fmt: skip
    """The count at which a distance that falls with network evaluations reaches `mine`, by interpolation.

    Between two measured counts the logarithm of the distance (the distance itself where one is not positive) is linear
    in the logarithm of the count. The interval is a set of counts: those where the interpolated curve minus `mine` is
    within 1.96 standard errors of zero, the error from jackknife replicates of that very difference. Student and
    solver share noise and reference, so most of what is uncertain about either cancels; and where the curve is flat the
    set has no upper bound, as it should be.

    Args:
        counts: (k,) increasing numbers of network evaluations, and
        values: (k,) the distance at each.
        replicates: k times (2, g), as in `Extrapolated.replicates`.
        mine: the student's distance, and
        my_replicates: (2, g) its replicates, from the same groups.

    Raises:
        SettingsError: nothing to interpolate, or counts that do not increase.
    """
    if not counts or len({len(counts), len(values), len(replicates)}) != 1 or sorted(set(counts)) != list(counts):
        raise SettingsError(f"equivalence needs a value with replicates at increasing counts, got {counts}")
    places = np.log(np.array(counts, dtype=np.float64))
    grid = np.unique(np.concatenate([places, *(np.linspace(a, b, _GRID) for a, b in zip(places, places[1:],
                                                                                    strict=False))]))  # fmt: skip
    curves, others = np.stack(replicates), np.asarray(my_replicates)
    positive = min(min(values), mine, float(curves.min()), float(others.min())) > 0
    scale = np.log if positive else np.asarray
    gap = np.interp(grid, places, scale(np.array(values))) - scale(mine)
    groups = curves.shape[-1]
    apart = np.empty((2, groups, len(grid)))
    for side in range(2):
        for group in range(groups):
            apart[side, group] = np.interp(grid, places, scale(curves[:, side, group])) - scale(others[side, group])
    variance = np.array([sum(jackknife_variance(apart[side, :, i]) for side in range(2)) for i in range(len(grid))])
    alike = np.flatnonzero(np.abs(gap) <= NORMAL_QUANTILE * np.sqrt(variance))
    low = high = None
    if len(alike):
        low = None if alike[0] == 0 else math.exp(grid[alike[0]])
        high = None if alike[-1] == len(grid) - 1 else math.exp(grid[alike[-1]])
    return Equivalent(_crossing(grid, gap), low, high)


def _crossing(grid: np.ndarray, gap: np.ndarray) -> float | None:
    """Where `gap` first falls to zero or below; None where it never does, or is there from the start."""
    reached = np.flatnonzero(gap <= 0)
    if not len(reached):
        return None
    i = int(reached[0])
    if i == 0:
        return math.exp(grid[0])
    share = gap[i - 1] / (gap[i - 1] - gap[i])
    return math.exp(grid[i - 1] + share * (grid[i] - grid[i - 1]))
