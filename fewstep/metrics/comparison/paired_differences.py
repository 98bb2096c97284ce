"""Differences between two models that drew from the same noise, and between a model and real images: estimates with
their standard errors."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from fewstep.util.errors import SettingsError

_ROWS = 1024  # rows of a distance matrix at a time: bounds memory


@dataclass(frozen=True)
class Difference:
    """An estimate of (first model − second model), its standard error and the number of pairs behind it.

    `first` and `second` are the two models' own figures.
    """

    value: float
    standard_error: float
    n: int
    first: float
    second: float


def share_difference(a: np.ndarray, b: np.ndarray) -> Difference:
    """Difference of two shares in matched pairs (Agresti and Min 2005, Statistics in Medicine 24:729).

    With n₁₀ pairs in which only a is true and n₀₁ in which only b is, half a pair is added to each of the four cells:
    value = (n₁₀ − n₀₁)/(n + 2) and variance = (n₁₀ + n₀₁ + 1 − (n₁₀ − n₀₁)²/(n + 2))/(n + 2)². So the uncertainty of
    two models that were never seen to differ is not zero.

    Args:
        a: (n,) and
        b: (n,) booleans; pair i comes from the same noise and condition.

    Raises:
        SettingsError: they are no pairs.
    """
    if len(a) != len(b) or len(a) == 0:
        raise SettingsError(f"a paired comparison needs samples from the same noise: got {len(a)} and {len(b)}")
    n, only_a, only_b = len(a), int((a & ~b).sum()), int((~a & b).sum())
    value = (only_a - only_b) / (n + 2)
    variance = (only_a + only_b + 1 - (only_a - only_b) ** 2 / (n + 2)) / (n + 2) ** 2
    return Difference(value, variance**0.5, n, float(a.mean()), float(b.mean()))


def share_gap(a: np.ndarray, b: np.ndarray) -> Difference:
    """Difference of two shares in samples that have nothing in common (Agresti and Caffo 2000, The American
    Statistician 54:280): one true and one false observation are added to each, so that no share is certain.

    Args:
        a: (n,) and
        b: (m,) booleans.
    """
    shares = [(float(x.sum()) + 1) / (len(x) + 2) for x in (a, b)]
    variance = sum(share * (1 - share) / (len(x) + 2) for share, x in zip(shares, (a, b), strict=True))
    return Difference(shares[0] - shares[1], variance**0.5, len(a), float(a.mean()), float(b.mean()))


def repeat_radius(reference: np.ndarray, groups: list[np.ndarray], share: float) -> float:
    """The distance below which a `share` of the reference's pairs lie; a pair is two rows of one group."""
    found = [cdist(reference[rows], reference[rows])[np.triu_indices(len(rows), 1)] for rows in groups]
    return float(np.quantile(np.concatenate(found), share))


def repeat_difference(a: np.ndarray, b: np.ndarray, groups: list[np.ndarray], radius: float) -> Difference:
    """Difference in the share of pairs of samples that are nearer to each other than `radius`.

    Models that draw from few modes repeat themselves, wherever the modes lie (the birthday test of Arora and Zhang
    2018, arXiv 1706.08224). The share is a U-statistic over pairs within a group, hence unbiased; its standard error is
    that of each sample's influence, and at least 1/n, the size of what n/2 disjoint pairs cannot see.

    Args:
        a: (n, d) and
        b: (n, d) features of the two models, row i from the same noise and condition.
        groups: rows that belong together (of one class), two or more each.

    Raises:
        SettingsError: a group has fewer than two samples.
    """
    if len(a) != len(b) or min(len(rows) for rows in groups) < 2:
        raise SettingsError("repeats are counted among at least 2 samples of a class, in pairs of the same noise")
    n, totals, variance = sum(len(rows) for rows in groups), np.zeros(2), 0.0
    for rows in groups:
        near = np.stack([_near(x[rows], radius) for x in (a, b)]) / (len(rows) - 1)  # (2, n of the group)
        totals += near.sum(axis=1)
        variance += len(rows) * float(np.var(2 * (near[0] - near[1]), ddof=1))
    first, second = (float(total / n) for total in totals)
    return Difference(first - second, float(np.hypot(variance**0.5 / n, 1 / n)), n, first, second)


def _near(x: np.ndarray, radius: float) -> np.ndarray:
    """(n,): how many of the others lie within `radius` of each row."""
    parts = range(0, len(x), _ROWS)
    return np.concatenate([(cdist(x[i : i + _ROWS], x) < radius).sum(axis=1) for i in parts]) - 1
