"""Kernel distance (unbiased squared maximum mean discrepancy) with its standard error, alone and paired."""

from dataclasses import dataclass

import numpy as np

from fewstep.metrics.distances.kernels import Cubic, Kernel
from fewstep.util.errors import NonFinite, SettingsError


@dataclass(frozen=True)
class Estimate:
    """An unbiased estimate and its standard error."""

    value: float
    standard_error: float


def kernel_distance(
    x: np.ndarray, y: np.ndarray, strata: tuple[np.ndarray, np.ndarray] | None = None, kernel: Kernel | None = None
) -> Estimate:
    """Unbiased MMD². With the cubic kernel, the default, it is KID (Bińkowski et al. 2018, arXiv 1801.01401).

        mean_{i≠j} k(xᵢ, xⱼ) + mean_{i≠j} k(yᵢ, yⱼ) − 2 mean_{ij} k(xᵢ, yⱼ)

    over all pairs, not random subsets. The standard error is that of the first-order projection (each sample's
    influence); when x and y have one distribution, where that projection vanishes, it is too large rather than too
    small.

    Strata: when the number of samples of each class is fixed, as it is when classes are asked for in the reference's
    own proportions, samples are independent within classes only, and the plain formula is biased downwards. Given the
    classes, only pairs within a class are corrected: pairs of one class of n_c count n_c/(n_c − 1), pairs of
    different classes 1, and everything is divided by n². One stratum is the plain formula.

    Args:
        x: (n, d) and
        y: (m, d) features. Order and batching do not matter.
        strata: labels (n,) of x and (m,) of y, each label at least twice on its side; None for one stratum.
        kernel: another than the cubic one.

    Raises:
        SettingsError: too few samples, or widths differ.
        NonFinite: a feature is NaN or infinite.
    """
    x, y = _checked(x, y)
    kernel = kernel or Cubic()
    inside_x, inside_y = strata or (None, None)
    own_x, own_y = _within(kernel, x, inside_x), _within(kernel, y, inside_y)
    towards_y, towards_x = kernel.sums(x, y) / len(y), kernel.sums(y, x) / len(x)
    value = own_x.mean() + own_y.mean() - 2 * towards_y.mean()
    variance = _variance(2 * (own_x - towards_y), inside_x) + _variance(2 * (own_y - towards_x), inside_y)
    return Estimate(float(value), variance**0.5)


def kernel_distance_difference(
    a: np.ndarray, b: np.ndarray, reference: np.ndarray, strata: tuple[np.ndarray, np.ndarray] | None = None
) -> Estimate:
    """KID(a, reference) − KID(b, reference) for paired samples: aᵢ and bᵢ come from the same noise and condition.

    The reference's own term cancels. The standard error is that of the pairs' and the reference's influence on the
    difference, so what a pair shares cancels there as well. Negative: a is nearer to the reference.

    Args:
        a: (n, d) and
        b: (n, d) features of the two models.
        reference: (m, d) features of the reference.
        strata: labels (n,) of the pairs and (m,) of the reference, see `kernel_distance`.

    Raises:
        SettingsError: a and b differ in number, so they are no pairs; or too few samples.
        NonFinite: a feature is NaN or infinite.
    """
    if len(a) != len(b):
        raise SettingsError(f"a paired comparison needs samples from the same noise: got {len(a)} and {len(b)}")
    a, reference = _checked(a, reference)
    b, reference = _checked(b, reference)
    pairs, inside_reference = strata or (None, None)
    kernel = Cubic()
    own = _within(kernel, a, pairs) - _within(kernel, b, pairs)
    towards = (kernel.sums(a, reference) - kernel.sums(b, reference)) / len(reference)
    from_reference = (kernel.sums(reference, a) - kernel.sums(reference, b)) / len(a)
    value = own.mean() - 2 * towards.mean()
    variance = _variance(2 * (own - towards), pairs) + _variance(2 * from_reference, inside_reference)
    return Estimate(float(value), variance**0.5)


def _within(kernel: Kernel, x: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """(n,) whose mean is the unbiased E k(x, x'): each sample's mean similarity to the others."""
    alike = kernel.sums(x, x)
    itself = kernel.diagonal(x)
    if labels is None:
        return (alike - itself) / (len(x) - 1)
    corrected = alike
    for rows in _strata(labels, len(x)):
        inside = kernel.sums(x[rows], x[rows])
        corrected[rows] += (inside - itself[rows]) * len(rows) / (len(rows) - 1) - inside
    return corrected / len(x)


def _variance(influence: np.ndarray, labels: np.ndarray | None) -> float:
    """Variance of the mean of `influence`, with the number of samples in each stratum fixed."""
    groups = [np.arange(len(influence))] if labels is None else _strata(labels, len(influence))
    return float(sum(len(rows) * influence[rows].var(ddof=1) for rows in groups) / len(influence) ** 2)


def _strata(labels: np.ndarray, n: int) -> list[np.ndarray]:
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    if len(labels) != n or min(len(rows) for rows in groups) < 2:
        raise SettingsError(f"strata need a label for each of {n} samples and at least 2 samples of each label")
    return groups


def _checked(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 3:
        raise SettingsError(
            f"the kernel distance needs at least 3 samples on both sides in the same features; "
            f"got shapes {x.shape} and {y.shape}"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise NonFinite("kernel distance: a feature is NaN or infinite")
    return x, y
