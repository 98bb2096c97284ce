"""Diversity within a condition against closed forms and the bootstrap; density and coverage; the kernels."""

import numpy as np
import pytest

from fewstep.metrics.distances.diversity import diversity
from fewstep.metrics.distances.kernel_distance import kernel_distance
from fewstep.metrics.distances.kernels import Gaussian, median_bandwidth
from fewstep.metrics.distances.nearest_neighbours import manifolds
from fewstep.util.errors import SettingsError


def gaussian(n: int, d: int, seed: int, scale: float = 1.0) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal((n, d))


def test_diversity_is_the_ratio_of_scales_within_classes():
    """Classes far apart must not count: the samples are half as wide as the reference around each centre."""
    labels, known = np.arange(600) % 3, np.arange(300) % 3
    centres = 50.0 * np.eye(3, 4)
    found = diversity(gaussian(600, 4, 0, 0.5) + centres[labels], gaussian(300, 4, 1) + centres[known], labels, known)
    assert found.interval[0] < 0.5 < found.interval[1] and found.interval[1] - found.interval[0] < 0.1
    one_image_per_class = diversity(centres[labels], gaussian(300, 4, 1) + centres[known], labels, known)
    assert one_image_per_class.ratio == 0
    with pytest.raises(SettingsError, match="two samples"):
        diversity(gaussian(2, 4, 0), gaussian(2, 4, 1), np.array([0, 1]), np.array([2, 2]))


def test_the_interval_of_diversity_is_that_of_the_bootstrap():
    x, y, source = gaussian(200, 3, 2), gaussian(150, 3, 3), np.random.default_rng(4)
    found = diversity(x, y)
    drawn = [diversity(x[source.integers(0, 200, 200)], y[source.integers(0, 150, 150)]).ratio for _ in range(200)]
    width = np.log(found.interval[1] / found.interval[0]) / (2 * 1.96)
    assert width == pytest.approx(np.log(drawn).std(), rel=0.25)


def test_density_and_coverage_of_real_of_crowded_and_of_half():
    real, other = gaussian(800, 2, 0), gaussian(800, 2, 1)
    alike = manifolds(other, real)
    assert alike.density.interval[0] - 0.05 < 1 < alike.density.interval[1] + 0.05
    assert alike.coverage.value == pytest.approx(1 - 2**-5, abs=0.02)
    crowded = manifolds(0.2 * other, real)
    assert crowded.density.value > 0.9 and crowded.coverage.value < 0.3 and crowded.precision.value > 0.95
    half = manifolds(other[np.r_[other[:, 0] > 0]], real[:400])
    assert half.coverage.value == pytest.approx(0.5, abs=0.1) and half.recall.value < 0.7


def test_density_and_coverage_are_what_their_definition_says():
    samples, real, k = gaussian(40, 3, 5), gaussian(40, 3, 6), 5
    reach = [sorted(np.linalg.norm(real - one, axis=1))[k] for one in real]
    hits = np.array([[np.linalg.norm(s - r) <= far for r, far in zip(real, reach, strict=True)] for s in samples])
    found = manifolds(samples, real)
    assert found.density.value == pytest.approx(hits.sum() / (k * 40)) and found.coverage.value == hits.any(0).mean()


def test_mmd_with_a_gaussian_kernel_equals_its_closed_form():
    """N(0, 1) and N(m, 1) in d dimensions: MMD² = 2 (s²/(s²+2))^(d/2) (1 − exp(−|m|²/(2 (s²+2))))."""
    d, s = 2, 1.5
    m = np.array([0.6, 0.0])
    exact = 2 * (s**2 / (s**2 + 2)) ** (d / 2) * (1 - np.exp(-(m @ m) / (2 * (s**2 + 2))))
    found = kernel_distance(gaussian(3000, d, 7), gaussian(3000, d, 8) + m, kernel=Gaussian(s))
    assert abs(found.value - exact) < 4 * found.standard_error < 0.4 * exact
    null = [kernel_distance(gaussian(300, d, 10 + i), gaussian(300, d, 90 + i), kernel=Gaussian(s)).value
            for i in range(40)]  # fmt: skip
    assert abs(np.mean(null)) < 4 * np.std(null) / 40**0.5 and min(null) < 0


def test_mmd_in_strata_and_all_at_once_is_what_all_pairs_give():
    x, y = gaussian(60, 3, 1), gaussian(50, 3, 2)
    pairs = [np.exp(-np.square(a[:, None] - b[None]).sum(-1) / 8) for a, b in ((x, x), (y, y), (x, y))]
    own = [(p.sum() - len(p)) / (len(p) * (len(p) - 1)) for p in pairs[:2]]
    found = kernel_distance(x, y, kernel=Gaussian(2.0))
    assert found.value == pytest.approx(sum(own) - 2 * pairs[2].mean(), rel=1e-10)
    one = kernel_distance(x, y, (np.zeros(60, dtype=int), np.zeros(50, dtype=int)), Gaussian(2.0))
    assert one.value == pytest.approx(found.value, rel=1e-10)
    assert median_bandwidth(gaussian(500, 1, 3)) == pytest.approx(0.954, abs=0.1)  # median of |N(0, 2)|


def test_the_standard_error_of_a_kernel_distance_is_that_of_the_bootstrap():
    """Of the unbiased U-statistic; pairs of a sample with itself, which resampling makes, are left out."""
    x, y, source = gaussian(150, 2, 4), gaussian(150, 2, 5) + 0.8, np.random.default_rng(6)
    kernel = [np.exp(-np.square(a[:, None] - b[None]).sum(-1) / 4.5) for a, b in ((x, x), (y, y), (x, y))]

    def again() -> float:
        a, b = source.integers(0, 150, (2, 150))
        own = []
        for rows, values in ((a, kernel[0]), (b, kernel[1])):
            other = rows[:, None] != rows[None]
            own.append(values[np.ix_(rows, rows)][other].mean())
        return sum(own) - 2 * kernel[2][np.ix_(a, b)].mean()

    found = kernel_distance(x, y, kernel=Gaussian(1.5))
    assert found.standard_error == pytest.approx(np.std([again() for _ in range(400)]), rel=0.2)
