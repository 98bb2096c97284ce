"""Kernel distance (unbiased squared maximum mean discrepancy) with its standard error, alone and paired."""

from dataclasses import dataclass

import numpy as np

from fewstep.errors import NonFinite, SettingsError
from fewstep.metrics.intervals import jackknife_variance

_DEGREE = 3
_ROWS = 2048  # rows at a time: bounds memory
_TENSOR_FEATURES = 32  # up to this many features sums go through the third moment, in time linear in the samples


@dataclass(frozen=True)
class Estimate:
    """An unbiased estimate and its standard error."""

    value: float
    standard_error: float

    @property
    def z(self) -> float:
        """Value in standard errors."""
        if self.value == 0:
            return 0.0
        return self.value / self.standard_error if self.standard_error > 0 else float(np.copysign(np.inf, self.value))


def kernel_distance(x: np.ndarray, y: np.ndarray) -> Estimate:
    """KID: unbiased MMD² with the kernel k(a, b) = (a·b / d + 1)³ (Bińkowski et al. 2018, arXiv 1801.01401).

        mean_{i≠j} k(xᵢ, xⱼ) + mean_{i≠j} k(yᵢ, yⱼ) − 2 mean_{ij} k(xᵢ, yⱼ)

    over all pairs, not random subsets. The standard error is the delete-one jackknife over both samples; when x and y
    have one distribution it is somewhat too large (the statistic is degenerate there), never too small.

    Args:
        x: (n, d) and
        y: (m, d) features, n, m ≥ 3. Order and batching do not matter.

    Raises:
        SettingsError: too few samples, or widths differ.
        NonFinite: a feature is NaN or infinite.
    """
    x, y = _checked(x, y)
    xx, yy = _Within(x), _Within(y)
    xy, yx = _cross(x, y), _cross(y, x)
    n, m = len(x), len(y)
    value = xx.mean + yy.mean - 2 * xy.sum() / (n * m)
    without_x = xx.without + yy.mean - 2 * (xy.sum() - xy) / ((n - 1) * m)
    without_y = xx.mean + yy.without - 2 * (yx.sum() - yx) / (n * (m - 1))
    return Estimate(float(value), (jackknife_variance(without_x) + jackknife_variance(without_y)) ** 0.5)


def kernel_distance_difference(a: np.ndarray, b: np.ndarray, reference: np.ndarray) -> Estimate:
    """KID(a, reference) − KID(b, reference) for paired samples: aᵢ and bᵢ come from the same noise and condition.

    The reference's own term cancels. The jackknife leaves out pairs (aᵢ, bᵢ), so what the pairs share cancels in the
    standard error as well, and single reference samples. Negative: a is nearer to the reference.

    Args:
        a: (n, d) and
        b: (n, d) features of the two models.
        reference: (m, d) features of the reference.

    Raises:
        SettingsError: a and b differ in number, so they are no pairs; or too few samples.
        NonFinite: a feature is NaN or infinite.
    """
    if len(a) != len(b):
        raise SettingsError(f"a paired comparison needs samples from the same noise: got {len(a)} and {len(b)}")
    a, reference = _checked(a, reference)
    b, reference = _checked(b, reference)
    n, m = len(a), len(reference)
    aa, bb = _Within(a), _Within(b)
    to_reference = _cross(a, reference) - _cross(b, reference)
    from_reference = _cross(reference, a) - _cross(reference, b)
    total = to_reference.sum()
    value = aa.mean - bb.mean - 2 * total / (n * m)
    without_pair = aa.without - bb.without - 2 * (total - to_reference) / ((n - 1) * m)
    without_reference = aa.mean - bb.mean - 2 * (total - from_reference) / (n * (m - 1))
    return Estimate(float(value), (jackknife_variance(without_pair) + jackknife_variance(without_reference)) ** 0.5)


class _Within:
    """Mean kernel value over pairs of different samples, and the same with each sample left out."""

    def __init__(self, x: np.ndarray):
        n = len(x)
        rows = _cross(x, x) - (np.square(x).sum(1) / x.shape[1] + 1) ** _DEGREE
        total = rows.sum()
        self.mean = total / (n * (n - 1))
        self.without = (total - 2 * rows) / ((n - 1) * (n - 2))


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n,): Σⱼ k(xᵢ, yⱼ) for every i.

    With z = (x/√d, 1) the kernel is (zᵢ·zⱼ)³, and the sum over j is the third moment Σⱼ zⱼ⊗zⱼ⊗zⱼ contracted with zᵢ
    three times: no matrix of all pairs.
    """
    d = x.shape[1]
    if d > _TENSOR_FEATURES:
        return np.concatenate([((x[i : i + _ROWS] @ y.T) / d + 1).__pow__(_DEGREE).sum(1)
                               for i in range(0, len(x), _ROWS)])
    third = sum(np.einsum("nab,nc->abc", squares, z, optimize=True) for squares, z in _powers(y))
    return np.concatenate([
        np.einsum("nc,nc->n", squares.reshape(len(z), -1) @ third.reshape(-1, d + 1), z) for squares, z in _powers(x)
    ])


def _powers(x: np.ndarray):
    """(z⊗z (rows, d+1, d+1), z (rows, d+1)) in blocks of rows."""
    for i in range(0, len(x), _ROWS):
        part = x[i : i + _ROWS]
        z = np.concatenate([part / np.sqrt(x.shape[1]), np.ones((len(part), 1))], axis=1)
        yield z[:, :, None] * z[:, None, :], z


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
