"""Diversity within a condition: the mean distance between samples, over that between real images."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import pdist, squareform

from fewstep.metrics.distances.intervals import Interval
from fewstep.metrics.protocol import NORMAL_QUANTILE
from fewstep.util.errors import SettingsError

_AT_MOST = 1500  # samples of one condition: all their pairs stand in memory


@dataclass(frozen=True)
class Diversity:
    """`ratio` of mean distances, samples over reference: 1 as diverse as real images, 0 one image per condition.

    `spread` is the samples' own mean distance. `n` counts the samples behind it.
    """

    ratio: float
    interval: Interval
    spread: float
    n: int


def diversity(samples: np.ndarray, reference: np.ndarray, labels: np.ndarray | None = None,
              reference_labels: np.ndarray | None = None) -> Diversity:  # fmt: skip
    """Mean Euclidean distance between two different samples of the same condition, over the reference's.

    Each side is Σ_c w_c mean_{i<j} |x_i − x_j| over the conditions c that both sides have at least twice, w_c the
    reference's share of c: a U-statistic, unbiased for any number of samples. Its variance is that of the first-order
    projection (each sample's mean distance to the others of its condition), and the ratio's follows by the delta
    method, on the logarithm.

    Args:
        samples: (n, d) and
        reference: (m, d) features.
        labels: (n,) conditions of the samples, and
        reference_labels: (m,) of the reference; None for one condition.

    Raises:
        SettingsError: no condition has two samples on both sides.
    """
    labels = np.zeros(len(samples), dtype=np.int64) if labels is None else labels
    reference_labels = np.zeros(len(reference), dtype=np.int64) if reference_labels is None else reference_labels
    names, counts = np.unique(reference_labels, return_counts=True)
    weights = {name: count for name, count in zip(names, counts, strict=True)
               if count >= 2 and (labels == name).sum() >= 2}  # fmt: skip
    if not weights:
        raise SettingsError("diversity within a condition needs two samples and two reference images of some condition")
    total = sum(weights.values())
    here = {name: count / total for name, count in weights.items()}
    spread, error, n = _spread(samples, labels, here)
    known, known_error, _ = _spread(reference, reference_labels, here)
    ratio = spread / max(known, 1e-12)
    if spread <= 0 or known <= 0:
        return Diversity(ratio, (ratio, ratio), spread, n)
    relative = float(np.hypot(error / spread, known_error / known))
    factor = float(np.exp(NORMAL_QUANTILE * relative))
    return Diversity(ratio, (ratio / factor, ratio * factor), spread, n)


def _spread(points: np.ndarray, labels: np.ndarray, weights: dict[int, float]) -> tuple[float, float, int]:
    value, variance, n = 0.0, 0.0, 0
    for name, weight in weights.items():
        some = points[labels == name][:_AT_MOST]
        own = squareform(pdist(some)).sum(1) / (len(some) - 1)
        value += weight * float(own.mean())
        variance += weight**2 * 4 * float(own.var(ddof=1)) / len(some)
        n += len(some)
    return value, variance**0.5, n


def diversity_within(samples: np.ndarray, labels: np.ndarray, reference: np.ndarray) -> Diversity | None:
    """Mean distance between two samples of the same prompt, over that between any two reference images.

    Real images of one prompt are seldom two, so the measure is that of all of them: 1 means that samples of one prompt
    differ as images of different prompts do, 0 that every prompt has one image. Every prompt weighs alike.

    Args:
        samples: (n, d) and reference: (m, d) features.
        labels: (n,) prompts of the samples.

    Returns:
        None where no prompt has two samples, or there are fewer than two reference images.
    """
    names, counts = np.unique(labels, return_counts=True)
    repeated = names[counts >= 2]
    if not len(repeated) or len(reference) < 2:
        return None
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], repeated)
    parts = [samples[order[start : start + min(count, _AT_MOST)]]
             for start, count in zip(starts, counts[counts >= 2], strict=True)]  # fmt: skip
    means = np.array([pdist(part).mean() for part in parts])
    spread, error = float(means.mean()), float(means.std(ddof=1) / len(means) ** 0.5) if len(means) > 1 else 0.0
    known, known_error, _ = _spread(reference, np.zeros(len(reference), dtype=np.int64), {0: 1.0})
    n, ratio = sum(map(len, parts)), spread / max(known, 1e-12)
    if spread <= 0 or known <= 0:
        return Diversity(ratio, (ratio, ratio), spread, n)
    factor = float(np.exp(NORMAL_QUANTILE * float(np.hypot(error / spread, known_error / known))))
    return Diversity(ratio, (ratio / factor, ratio * factor), spread, n)
