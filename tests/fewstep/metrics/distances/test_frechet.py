"""Fréchet distance against closed forms, SciPy, torchmetrics; its bias and its extrapolation."""

import numpy as np
import pytest
import scipy.linalg
import torch

from fewstep.metrics.distances.frechet import (
    frechet_bias,
    frechet_distance,
    frechet_extrapolated,
    frechet_of_blocks,
)
from fewstep.metrics.distances.moments import Moments, merged
from fewstep.util.errors import NonFinite, SettingsError


def draw(n: int, d: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def gaussian(mean: np.ndarray, covariance: np.ndarray) -> Moments:
    return Moments(2, np.asarray(mean, dtype=np.float64), np.asarray(covariance, dtype=np.float64))


def random_covariance(d: int, seed: int) -> np.ndarray:
    a = draw(d, d, seed)
    return a @ a.T / d


class Identity(torch.nn.Module):
    """Features that are the input itself, in the shape torchmetrics asks of an extractor."""

    num_features = 12

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


def test_gaussians_with_known_distance():
    a, b = np.diag([1.0, 4.0, 9.0]), np.diag([4.0, 4.0, 1.0])  # Σ (√λ₁ − √λ₂)² = 1 + 0 + 4
    assert frechet_distance(gaussian([0, 0, 0], a), gaussian([1, 2, 2], b)) == pytest.approx(9 + 5, rel=1e-12)
    # an optimal map M (symmetric, positive) from N(0, A) to N(0, M A M) costs tr (M − 1) A (M − 1)
    cov, m = random_covariance(16, 1), random_covariance(16, 2) + np.eye(16)
    known = np.trace((m - np.eye(16)) @ cov @ (m - np.eye(16)))
    assert frechet_distance(gaussian(np.zeros(16), cov), gaussian(np.zeros(16), m @ cov @ m)) == pytest.approx(known)


def test_a_shift_counts_squared_and_equal_sets_give_zero():
    x, step = draw(400, 8, 3), np.arange(8.0)
    assert frechet_distance(Moments.of(x), Moments.of(x + step)) == pytest.approx(np.square(step).sum(), rel=1e-10)
    assert abs(frechet_distance(Moments.of(x), Moments.of(x[::-1]))) < 1e-10
    flat = x * np.array([1, 1, 1, 1, 0, 0, 0, 0])  # singular covariances are no special case
    assert abs(frechet_distance(Moments.of(flat), Moments.of(flat))) < 1e-10


def test_agrees_with_scipys_square_root_and_torchmetrics_to_four_digits():
    from torchmetrics.image.fid import FrechetInceptionDistance

    x, y = draw(700, 12, 1) @ random_covariance(12, 5) + 0.3, draw(500, 12, 2) @ random_covariance(12, 6)
    ours = frechet_distance(Moments.of(x), Moments.of(y))
    root = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    by_scipy = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    assert ours == pytest.approx(by_scipy, rel=1e-6)
    theirs = FrechetInceptionDistance(feature=Identity(), normalize=True, input_img_size=(3, 2, 2))
    theirs.set_dtype(torch.float64)
    for stack, real in ((x, False), (y, True)):
        theirs.update(torch.from_numpy(stack).reshape(-1, 3, 2, 2), real=real)
    assert ours == pytest.approx(float(theirs.compute()), rel=1e-4)


def test_moments_do_not_depend_on_order_or_split_even_far_from_zero():
    x = draw(1001, 6, 4) + 1e4
    whole = Moments.of(x)
    parts = merged([Moments.of(part) for part in np.split(np.random.default_rng(0).permutation(x), [1, 7, 300, 301])])
    assert parts.n == whole.n
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-14)
    np.testing.assert_allclose(parts.covariance, np.cov(x.T), rtol=0, atol=1e-9)


def test_bias_formula_matches_simulation():
    d = 16
    assert frechet_bias(np.eye(d), 1000) == pytest.approx((d / 1000) + d * (d + 1) / 4 / 1000)
    scale = np.linspace(0.1, 2, d)
    target = gaussian(np.zeros(d), np.diag(scale**2))
    found = [frechet_distance(Moments.of(draw(500, d, s) * scale), target) for s in range(60)]
    error = np.std(found) / 60**0.5
    assert np.mean(found) == pytest.approx(frechet_bias(np.diag(scale**2), 500), abs=4 * error + 0.01 * np.mean(found))


def test_extrapolation_removes_the_samples_bias_and_its_error_is_honest():
    d, reference = 12, draw(60_000, 12, 99)
    runs = [frechet_extrapolated(draw(1200, d, s), reference) for s in range(30)]
    infinite = np.array([run.infinite for run in runs])
    spread = infinite.std(ddof=1)
    assert abs(infinite.mean()) < 4 * spread / 30**0.5 + 2e-3 < 0.02
    bias = np.mean([run.finite - run.infinite for run in runs])
    assert bias == pytest.approx(frechet_bias(np.eye(d), 1200), rel=0.15)
    assert 0.5 < np.mean([run.infinite_error for run in runs]) / spread < 3
    far = frechet_extrapolated(draw(1200, d, 7) + 0.5, reference)
    assert abs(far.infinite - 0.25 * d) < 4 * far.infinite_error


def test_too_few_or_broken_samples_are_refused():
    with pytest.raises(SettingsError, match="at least"):
        frechet_extrapolated(draw(20, 4, 1), draw(100, 4, 2))
    broken = draw(100, 4, 1)
    broken[3, 2] = np.nan
    with pytest.raises(NonFinite):
        frechet_extrapolated(broken, draw(100, 4, 2))


def test_a_frechet_distance_streams_through_blocks_of_any_batches():
    """Sums per block are all that is kept, so memory does not depend on the number of samples."""
    source = np.random.default_rng(0)
    features, reference = source.normal(size=(2400, 5)), source.normal(0.2, 1.1, size=(480, 5))
    whole = frechet_extrapolated(features, reference)
    blocks: list[Moments | None] = [None] * 24
    for start in range(0, 2400, 70):  # batches that fit no block
        for i, row in enumerate(features[start : start + 70], start):
            one = Moments.of(row[None])
            blocks[i // 100] = one if blocks[i // 100] is None else blocks[i // 100] + one
    streamed = frechet_of_blocks(blocks, [Moments.of(part) for part in np.split(reference, 24)])
    assert np.isclose(streamed.infinite, whole.infinite, rtol=1e-9) and np.isclose(streamed.finite, whole.finite)
    assert np.isclose(streamed.infinite_error, whole.infinite_error, rtol=1e-6)
