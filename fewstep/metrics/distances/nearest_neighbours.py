"""Nearest neighbours: what samples and reference cover of each other, and memorisation of the training images."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.metrics import pairwise_distances_argmin_min

from fewstep.metrics.distances.intervals import Interval, wilson
from fewstep.metrics.protocol import NORMAL_QUANTILE
from fewstep.util.errors import SettingsError

_ROWS = 1024  # rows of a distance matrix at a time: bounds memory


@dataclass(frozen=True)
class Share:
    """A share in [0, 1], its 95 % interval and the number of trials behind it."""

    value: float
    interval: Interval
    n: int


@dataclass(frozen=True)
class Manifolds:
    """Shares and a density of samples and reference points in each other's manifolds; see `manifolds`."""

    precision: Share
    recall: Share
    density: Share
    coverage: Share


def manifolds(samples: np.ndarray, reference: np.ndarray, k: int = 3, k_density: int = 5,
              at_most: int = 5000) -> Manifolds:  # fmt: skip
    """Precision, recall, density and coverage between equally many points.

    A set's manifold is the union of balls around its points that reach to the k-th nearest other point of the set.
    Precision: share of samples in the reference's manifold; recall: share of reference points in the samples' manifold
    (Kynkäänniemi et al. 2019, arXiv 1904.06991). Density: number of reference balls around a sample over k, 1 expected
    of real samples and above 1 where samples crowd the modes; coverage: share of reference balls with a sample in them,
    about 1 − 2^−k expected of real samples (Naeem et al. 2020, arXiv 2002.09797). `k_density` is their k.

    All depend on the number of points, so m = min(samples, reference, at_most) of each are used; further samples form
    further disjoint groups of m, over which the figures are averaged.

    Args:
        samples: (n, d) and
        reference: (r, d) features in random order; more than k_density points each.
        k: neighbours for precision and recall.
        at_most: bound on m.

    Returns:
        The four, with intervals given the reference. Those of recall and coverage count every reference point once,
        which is cautious when there are several groups.

    Raises:
        SettingsError: not more than k_density points.
    """
    m = min(len(samples), len(reference), at_most)
    if m <= max(k, k_density):
        raise SettingsError(
            f"precision, recall, density and coverage with k = {k} and {k_density} need more than "
            f"{max(k, k_density)} points on both sides, there are {m}"
        )
    reference = reference[:m]
    reach, wide = _reach(reference, (k, k_density))
    groups = len(samples) // m
    inside, around, recalled, covered = 0, [], 0.0, 0.0
    for group in np.split(samples[: groups * m], groups):
        (own,) = _reach(group, (k,))
        seen, reached = np.zeros(m, dtype=bool), np.zeros(m, dtype=bool)
        for i in range(0, m, _ROWS):
            far = cdist(group[i : i + _ROWS], reference)
            inside += int((far <= reach).any(axis=1).sum())
            hits = far <= wide
            around.append(hits.sum(axis=1) / k_density)
            reached |= hits.any(axis=0)
            seen |= (far <= own[i : i + _ROWS, None]).any(axis=0)
        recalled, covered = recalled + float(seen.mean()), covered + float(reached.mean())
    total, counts = groups * m, np.concatenate(around)
    density = float(counts.mean())
    spread = NORMAL_QUANTILE * float(counts.std(ddof=1)) / total**0.5
    precision, recall, coverage = inside / total, recalled / groups, covered / groups
    return Manifolds(
        Share(precision, wilson(precision, total), total), Share(recall, wilson(recall, m), m),
        Share(density, (density - spread, density + spread), total), Share(coverage, wilson(coverage, m), m),
    )  # fmt: skip


def _reach(points: np.ndarray, ks: tuple[int, ...]) -> list[np.ndarray]:
    """For each k (n,): distance from every point to its k-th nearest other point."""
    rows = range(0, len(points), _ROWS)
    near = np.concatenate([np.partition(cdist(points[i : i + _ROWS], points), ks, axis=1)[:, ks] for i in rows])
    return list(near.T)


def nearest(points: np.ndarray, others: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """For each of (n, D) points the number (n,) of the nearest of the others, given in blocks of (·, D), and its
    Euclidean distance (n,)."""
    best, number, begun = np.full(len(points), np.inf), np.zeros(len(points), dtype=np.int64), 0
    for block in others:
        rows, far = pairwise_distances_argmin_min(points, block)
        nearer = far < best
        best, number = np.where(nearer, far, best), np.where(nearer, begun + rows, number)
        begun += len(block)
    return number, best


def nearest_distances(points: np.ndarray, others: Iterable[np.ndarray]) -> np.ndarray:
    """(n,): Euclidean distance from each of (n, D) points to the nearest of the others, given in blocks of (·, D)."""
    return nearest(points, others)[1]


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
