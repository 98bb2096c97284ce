"""Nearest neighbours: precision and recall of the samples' manifold, and memorisation of the training images."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.metrics import pairwise_distances_argmin_min

from fewstep.errors import SettingsError
from fewstep.metrics.intervals import Interval, wilson

_ROWS = 1024  # rows of a distance matrix at a time: bounds memory


@dataclass(frozen=True)
class Share:
    """A share in [0, 1], its 95 % interval and the number of trials behind it."""

    value: float
    interval: Interval
    n: int


def precision_recall(
    samples: np.ndarray, reference: np.ndarray, k: int = 3, at_most: int = 5000
) -> tuple[Share, Share]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991) between equally many points.

    A set's manifold is the union of balls around its points that reach to the k-th nearest other point of the set.
    Precision: share of samples in the reference's manifold. Recall: share of reference points in the samples'
    manifold. Both depend on the number of points, so m = min(samples, reference, at_most) of each are used; further
    samples form further disjoint groups of m, over which the shares are averaged.

    Args:
        samples: (n, d) and
        reference: (r, d) features in random order; more than k points each.
        k: neighbours.
        at_most: bound on m.

    Returns:
        (precision, recall), with intervals given the reference. Recall's counts every reference point once, which is
        cautious when there are several groups.

    Raises:
        SettingsError: not more than k points.
    """
    m = min(len(samples), len(reference), at_most)
    if m <= k:
        raise SettingsError(f"precision and recall with k = {k} need more than {k} points on both sides, there are {m}")
    reference = reference[:m]
    reach = _reach(reference, k)
    groups = len(samples) // m
    inside, covered = 0, 0.0
    for group in np.split(samples[: groups * m], groups):
        inside += int(_in_manifold(group, reference, reach).sum())
        covered += float(_in_manifold(reference, group, _reach(group, k)).mean())
    precision, recall = inside / (groups * m), covered / groups
    return Share(precision, wilson(precision, groups * m), groups * m), Share(recall, wilson(recall, m), m)


def _reach(points: np.ndarray, k: int) -> np.ndarray:
    """(n,): distance from every point to its k-th nearest other point."""
    rows = range(0, len(points), _ROWS)
    return np.concatenate([np.partition(cdist(points[i : i + _ROWS], points), k, axis=1)[:, k] for i in rows])


def _in_manifold(points: np.ndarray, centres: np.ndarray, reach: np.ndarray) -> np.ndarray:
    rows = range(0, len(points), _ROWS)
    return np.concatenate([(cdist(points[i : i + _ROWS], centres) <= reach).any(axis=1) for i in rows])


def nearest_distances(points: np.ndarray, others: Iterable[np.ndarray]) -> np.ndarray:
    """(n,): Euclidean distance from each of (n, D) points to the nearest of the others, given in blocks of (·, D)."""
    nearest = np.full(len(points), np.inf)
    for block in others:
        nearest = np.minimum(nearest, pairwise_distances_argmin_min(points, block)[1])
    return nearest


@dataclass(frozen=True)
class Memorisation:
    """`ratio`: median distance to the nearest training image, samples over held-out images (1: as far as new images;
    near 0: copies). `near`: share of samples nearer than all but 5 % of held-out images are (0.05 expected)."""

    ratio: float
    ratio_interval: Interval
    near: Share


def memorisation(samples: np.ndarray, held_out: np.ndarray) -> Memorisation:
    """Are samples nearer to the training images than new real images are?

    Blurred or averaged samples are near everything, so read it beside the distances: a low ratio with a poor Fréchet
    distance is blur, a low ratio with a good one is copying.

    Args:
        samples: (n,) distances from samples to their nearest training image, and
        held_out: (m,) the same for real images that were not trained on.

    Raises:
        SettingsError: fewer than 20 distances on a side.
    """
    if min(len(samples), len(held_out)) < 20:
        raise SettingsError(
            f"memorisation needs at least 20 samples and 20 held-out images, "
            f"there are {len(samples)} and {len(held_out)}"
        )
    middle, control = float(np.median(samples)), max(float(np.median(held_out)), 1e-12)
    low, high = _median_interval(samples)
    low_control, high_control = _median_interval(held_out)
    threshold = np.quantile(held_out, 0.05)
    near = float((samples < threshold).mean())
    return Memorisation(
        middle / control,
        (low / max(high_control, 1e-12), high / max(low_control, 1e-12)),
        Share(near, wilson(near, len(samples)), len(samples)),
    )


def _median_interval(values: np.ndarray) -> Interval:
    """Distribution-free 95 % interval of the median from order statistics (normal approximation of the binomial)."""
    ordered, n = np.sort(values), len(values)
    half = 0.98 * np.sqrt(n)
    return float(ordered[max(0, int(np.floor(n / 2 - half)))]), float(ordered[min(n - 1, int(np.ceil(n / 2 + half)))])
