"""Agreement of a student with its teacher: difference and correlation of their images from the same noise."""

from dataclasses import dataclass

import numpy as np

from fewstep.metrics.distances.intervals import Interval, jackknife_variance, normal
from fewstep.util.errors import SettingsError

_GROUPS = 20


@dataclass(frozen=True)
class Agreement:
    """`rms` in units of the value range [-1, 1]; `correlation` in [-1, 1]; with their 95 % intervals."""

    rms: float
    rms_interval: Interval
    correlation: float
    correlation_interval: Interval


def agreement(images: np.ndarray, targets: np.ndarray, labels: np.ndarray | None = None) -> Agreement:
    """Root mean square difference and correlation between images made from the same noise.

    The correlation is of the deviations from the targets' mean image (of each class, given labels), pooled over pixels
    and samples: two models that agree only on what the average image looks like score 0.

    Args:
        images: (n, …), n ≥ 20, and
        targets: (n, …) in [-1, 1], row by row from the same noise and condition.
        labels: (n,) classes, or None.

    Raises:
        SettingsError: the shapes differ or there are fewer than 20 samples.
    """
    if images.shape != targets.shape or len(images) < _GROUPS:
        raise SettingsError(
            f"agreement needs two equal stacks of at least {_GROUPS} images, got {images.shape} and {targets.shape}"
        )
    rows = np.array_split(np.arange(len(images)), _GROUPS)
    labels = np.zeros(len(images), dtype=np.int64) if labels is None else np.unique(labels, return_inverse=True)[1]
    centres = np.zeros((labels.max() + 1, images[0].size))
    for part in rows:
        np.add.at(centres, labels[part], _flat(targets[part]))
    centres /= np.bincount(labels)[:, None]
    groups = np.stack([_sums(_flat(images[part]), _flat(targets[part]), centres[labels[part]]) for part in rows])
    rms, correlation = _of(groups.sum(0))
    without = np.array([_of(groups.sum(0) - group) for group in groups])
    errors = [jackknife_variance(without[:, i]) ** 0.5 for i in (0, 1)]
    return Agreement(rms, normal(rms, errors[0]), correlation, normal(correlation, errors[1]))


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float64)


def _sums(a: np.ndarray, b: np.ndarray, centres: np.ndarray) -> np.ndarray:
    squared = np.square(a - b).sum()
    a, b = a - centres, b - centres
    return np.array([squared, a.size, (a * b).sum(), (a * a).sum(), (b * b).sum()])


def _of(sums: np.ndarray) -> tuple[float, float]:
    squared, count, ab, aa, bb = sums
    scale = float(np.sqrt(aa * bb))
    return float(np.sqrt(squared / count)), float(ab / scale) if scale > 0 else 0.0
