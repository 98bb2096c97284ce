"""Fréchet distance between Gaussians fitted to features, its bias, and its extrapolation to infinitely many samples."""

from dataclasses import dataclass

import numpy as np

from fewstep.metrics.distances.intervals import jackknife_variance
from fewstep.metrics.distances.moments import Moments, merged
from fewstep.util.errors import NonFinite, SettingsError

_BLOCKS = 24  # divisible by every number of subsets below
_FEW_BLOCKS = 6  # where a square root of a covariance takes seconds
_MANY_FEATURES = 256
_SUBSETS = (1, 2, 3, 4, 6, 8)


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared 2-Wasserstein distance between N(μ₁, Σ₁) and N(μ₂, Σ₂) (Dowson and Landau 1982).

        |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁^½ Σ₂ Σ₁^½)^½

    in the symmetric form: eigenvalues of a positive semi-definite matrix, so no complex square root and no added
    diagonal. Eigenvalues below zero by rounding count as zero. Equal moments give 0 to about 1e-12 of the trace.
    """
    ca, cb = a.covariance, b.covariance
    values, vectors = np.linalg.eigh(ca)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cb @ root).clip(min=0)).sum()
    return float(np.square(a.mean - b.mean).sum() + np.trace(ca) + np.trace(cb) - 2 * cross)


def frechet_bias(covariance: np.ndarray, n: int) -> float:
    """Expected Fréchet distance of n samples of N(μ, Σ) from N(μ, Σ) itself, to first order in 1/n.

        ( tr Σ + ½ Σᵢⱼ (1 + δᵢⱼ) λᵢ λⱼ / (λᵢ + λⱼ) ) / n ,  λ the eigenvalues of Σ

    The first part is the mean's, the second the covariance's; for Σ = I they are d/n and d(d+1)/(4n). A comparison of
    two samples has the bias of both. Derived from the second-order expansion of the Bures distance and the variance
    of a Wishart matrix.
    """
    values = np.linalg.eigvalsh(covariance).clip(min=0)
    together = values[:, None] + values[None, :]
    with np.errstate(invalid="ignore", divide="ignore"):
        pairs = np.where(together > 0, values[:, None] * values[None, :] / together, 0.0)
    return float((values.sum() + 0.5 * (pairs.sum() + np.trace(pairs))) / n)


@dataclass(frozen=True)
class Extrapolated:
    """`infinite` is the intercept of FD against 1/n, `finite` the plain value at all n samples, both with the standard
    error of a delete-a-group jackknife over the samples and over the reference."""

    infinite: float
    infinite_error: float
    finite: float
    finite_error: float
    subsets: tuple[int, ...]
    replicates: np.ndarray
    """(2, g): `infinite` without each group of samples, and without each group of the reference. The groups of two
    models' samples are the same samples where both were drawn from the same noise in the same order, so differences
    between models have paired replicates."""


def frechet_extrapolated(features: np.ndarray, reference: np.ndarray) -> Extrapolated:
    """FD∞: the Fréchet distance extrapolated linearly in 1/n to infinitely many samples.

    After Chong and Forsyth 2020 ("Effectively unbiased FID"), with disjoint subsets in place of random ones: all n
    samples, two halves, three thirds, … eighths, each level averaged. Only the samples' side is extrapolated: the
    reference's own bias stays, and is the same for everything that is compared with that reference, floor included.
    The value may be slightly negative: it is unbiased, not clipped.

    Args:
        features: (n, d) in random order (subsets are contiguous), n ≥ 24.
        reference: (m, d) in random order, m ≥ 24.

    Raises:
        SettingsError: too few samples for the number of features.
        NonFinite: a feature is NaN or infinite.
    """
    (n, d), m = features.shape, len(reference)
    if min(n, m) < _BLOCKS:
        raise SettingsError(
            f"the Fréchet distance needs at least {_BLOCKS} samples and reference images (many times the number "
            f"of features to mean much), there are {n} and {m}; raise evaluate.samples or add images"
        )
    if not (np.isfinite(features).all() and np.isfinite(reference).all()):
        raise NonFinite("Fréchet distance: a feature is NaN or infinite")
    count = _BLOCKS if d <= _MANY_FEATURES else _FEW_BLOCKS
    return frechet_of_blocks([Moments.of(part) for part in np.array_split(features, count)],
                             [Moments.of(part) for part in np.array_split(reference, count)])  # fmt: skip


def frechet_of_blocks(blocks: list[Moments], sides: list[Moments]) -> Extrapolated:
    """`frechet_extrapolated` from the moments of equally many disjoint blocks of samples and of the reference.

    Blocks are sums, so samples can stream into them: memory does not depend on their number.
    """
    n, d = sum(block.n for block in blocks), len(blocks[0].mean)
    whole = merged(sides)
    subsets = tuple(k for k in _SUBSETS if k <= 2 or (n // k >= 20 * d and len(blocks) % k == 0))
    infinite, finite = _fit(blocks, whole, subsets)
    without = np.array([_fit(blocks[:i] + blocks[i + 1 :], whole, subsets) for i in range(len(blocks))])
    without_reference = np.array([_fit(blocks, merged(sides[:i] + sides[i + 1 :]), subsets) for i in range(len(sides))])
    errors = [
        (jackknife_variance(without[:, i]) + jackknife_variance(without_reference[:, i])) ** 0.5 for i in (0, 1)
    ]
    replicates = np.stack([without[:, 0], without_reference[:, 0]])
    return Extrapolated(infinite, errors[0], finite, errors[1], subsets, replicates)


def _fit(blocks: list[Moments], reference: Moments, subsets: tuple[int, ...]) -> tuple[float, float]:
    """(intercept of the least-squares line of FD over 1/n, FD of all blocks)."""
    inverse, distance = [], []
    for k in subsets:
        parts = [merged(blocks[i * len(blocks) // k : (i + 1) * len(blocks) // k]) for i in range(k)]
        inverse.append(np.mean([1 / part.n for part in parts]))
        distance.append(np.mean([frechet_distance(part, reference) for part in parts]))
    slope, intercept = np.polyfit(np.array(inverse), np.array(distance), 1)
    del slope
    return float(intercept), float(distance[0])
