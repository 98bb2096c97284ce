"""Precision and recall in cases with known answers; memorisation of copies against new images."""

import numpy as np
import pytest

from fewstep.metrics.distances.intervals import wilson
from fewstep.metrics.distances.nearest_neighbours import manifolds, memorisation, nearest_distances
from fewstep.util.errors import SettingsError


def draw(n: int, d: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def precision_recall(samples: np.ndarray, reference: np.ndarray):
    found = manifolds(samples, reference, 3, 3)
    return found.precision, found.recall


def test_the_same_distribution_is_precise_and_recalled():
    precision, recall = precision_recall(draw(1200, 2, 1), draw(400, 2, 2))
    assert precision.value > 0.85 and recall.value > 0.85
    assert precision.n == 1200 and recall.n == 400
    assert precision.interval[0] < precision.value < precision.interval[1]


def test_one_mode_of_two_is_precise_but_not_recalled_and_noise_is_the_reverse():
    reference = np.concatenate([draw(200, 2, 1), draw(200, 2, 2) + 100])
    reference = np.random.default_rng(0).permutation(reference)
    precision, recall = precision_recall(draw(400, 2, 3), reference)
    assert precision.value > 0.85 and 0.4 < recall.value < 0.55
    precision, recall = precision_recall(np.random.default_rng(4).uniform(-10, 110, (400, 2)), reference)
    assert precision.value < 0.2 and recall.value > 0.5
    precision, recall = precision_recall(draw(400, 2, 5) + 1000, reference)
    assert precision.value == recall.value == 0
    assert precision.interval[1] > 0


def test_equal_sets_are_perfect_and_too_few_are_refused():
    precision, recall = precision_recall(draw(50, 3, 1), draw(50, 3, 1))
    assert precision.value == recall.value == 1
    with pytest.raises(SettingsError, match="more than 3"):
        precision_recall(draw(3, 2, 1), draw(50, 2, 1))


def test_nearest_distances_do_not_depend_on_blocks():
    x, y = draw(30, 5, 1), draw(100, 5, 2)
    known = np.linalg.norm(x[:, None] - y[None], axis=2).min(1)
    np.testing.assert_allclose(nearest_distances(x, [y]), known)
    np.testing.assert_allclose(nearest_distances(x, np.array_split(y, 7)), known)


def test_copies_of_the_training_set_are_found_and_new_images_pass():
    train, held_out, new = draw(500, 10, 1), draw(200, 10, 2), draw(800, 10, 3)
    control = nearest_distances(held_out, [train])
    honest = memorisation(nearest_distances(new, [train]), control)
    assert honest.ratio_interval[0] < 1 < honest.ratio_interval[1]
    assert honest.near.interval[0] < 0.07 and honest.near.value < 0.12
    copies = memorisation(nearest_distances(train[:300] + 0.01 * new[:300], [train]), control)
    assert copies.ratio < 0.05 and copies.near.value == 1
    with pytest.raises(SettingsError, match="at least 20"):
        memorisation(control[:5], control)


def test_wilson_interval_known_values():
    low, high = wilson(0.5, 100)
    assert (low, high) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(0, 10)[0] == 0 and wilson(0, 10)[1] == pytest.approx(0.2775, abs=1e-4)
    assert wilson(1, 10)[1] == pytest.approx(1)
