"""Kernel distance: unbiased, with an honest standard error, equal to torchmetrics', and paired."""

import numpy as np
import pytest
import torch

from fewstep.metrics.distances.kernel_distance import kernel_distance, kernel_distance_difference
from fewstep.util.errors import NonFinite, SettingsError


def draw(n: int, d: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def plain(x: np.ndarray, y: np.ndarray) -> float:
    """The definition, with all matrices written out."""
    def k(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    n, m = len(x), len(y)
    xx, yy = k(x, x), k(y, y)
    return (xx.sum() - np.trace(xx)) / n / (n - 1) + (yy.sum() - np.trace(yy)) / m / (m - 1) - 2 * k(x, y).mean()


class Identity(torch.nn.Module):
    num_features = 12

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


@pytest.mark.parametrize("d", [1, 12, 50])  # 50: the path without third moments
def test_equals_its_definition_and_its_error_is_near_the_jackknife(d):
    x, y = draw(60, d, 1) + 0.5, 1.3 * draw(45, d, 2)
    found = kernel_distance(x, y)
    assert found.value == pytest.approx(plain(x, y), rel=1e-9)
    left = [plain(np.delete(x, i, 0), y) for i in range(60)], [plain(x, np.delete(y, i, 0)) for i in range(45)]
    variance = sum((len(v) - 1) / len(v) * np.square(np.array(v) - np.mean(v)).sum() for v in left)
    assert found.standard_error == pytest.approx(variance**0.5, rel=0.1)
    one_class = kernel_distance(x, y, (np.zeros(60), np.zeros(45)))
    assert one_class.value == pytest.approx(found.value)
    assert one_class.standard_error == pytest.approx(found.standard_error)


def test_equals_torchmetrics_with_one_subset_of_everything():
    from torchmetrics.image.kid import KernelInceptionDistance

    x, y = draw(300, 12, 1) + 0.1, draw(300, 12, 2)
    theirs = KernelInceptionDistance(feature=Identity(), subsets=1, subset_size=300, normalize=True)
    theirs.set_dtype(torch.float64)
    for stack, real in ((x, False), (y, True)):
        theirs.update(torch.from_numpy(stack).reshape(-1, 3, 2, 2), real=real)
    assert kernel_distance(x, y).value == pytest.approx(float(theirs.compute()[0]), rel=1e-4)


def test_unbiased_and_indifferent_to_order():
    values = [kernel_distance(draw(100, 8, 2 * s), draw(80, 8, 2 * s + 1)) for s in range(60)]
    found = np.array([v.value for v in values])
    assert abs(found.mean()) < 4 * found.std() / 60**0.5
    assert found.min() < 0 < found.max()
    x, y = draw(100, 8, 1), draw(80, 8, 2)
    assert kernel_distance(x[::-1], y[::-1]).value == pytest.approx(kernel_distance(x, y).value, abs=1e-12)


def test_standard_error_covers_both_samples():
    values = [kernel_distance(draw(150, 6, 2 * s) + 0.4, draw(100, 6, 2 * s + 1)) for s in range(80)]
    spread = np.std([v.value for v in values], ddof=1)
    assert 0.75 < np.mean([v.standard_error for v in values]) / spread < 1.35


def test_paired_difference_is_the_difference_and_knows_the_pairs():
    noise, reference = draw(400, 6, 1), draw(300, 6, 2)
    a, b = noise + 0.3, 1.02 * noise + 0.3  # nearly the same model on the same noise
    found = kernel_distance_difference(a, b, reference)
    alone = kernel_distance(a, reference), kernel_distance(b, reference)
    assert found.value == pytest.approx(alone[0].value - alone[1].value, rel=1e-8)
    assert found.standard_error < 0.2 * alone[0].standard_error
    back = kernel_distance_difference(b, a, reference)
    assert back.value == pytest.approx(-found.value) and back.standard_error == pytest.approx(found.standard_error)
    same = kernel_distance_difference(a, a, reference)
    assert same.value == same.standard_error == 0


def test_paired_test_rejects_equal_models_no_more_often_than_its_level():
    """200 pairs of models with one distribution: |z| > 1.96 in no more than the 99 % binomial bound at 5 %."""
    rejected = 0
    for s in range(200):
        noise, reference = draw(120, 4, 3 * s), draw(100, 4, 3 * s + 1)
        a, b = noise + 0.5, 0.5 - noise
        found = kernel_distance_difference(a, b, reference)
        rejected += abs(found.value) > 1.96 * found.standard_error
    assert rejected <= 18


def classes(n: int, seed: int, d: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Five distant classes in fixed, equal proportions."""
    labels = np.arange(n) % 5
    return draw(n, d, seed) + 3 * np.eye(6)[labels][:, :d], labels


def test_classes_in_fixed_proportions_are_unbiased_only_as_strata():
    plain_values, values, errors = [], [], []
    for s in range(80):
        (x, of_x), (y, of_y) = classes(200, 2 * s), classes(150, 2 * s + 1)
        plain_values.append(kernel_distance(x, y).value)
        found = kernel_distance(x, y, (of_x, of_y))
        values.append(found.value)
        errors.append(found.standard_error)
    spread = np.std(values, ddof=1)
    assert abs(np.mean(values)) < 4 * spread / 80**0.5
    assert np.mean(plain_values) < -10 * spread / 80**0.5  # why strata are needed
    assert np.mean(errors) > 0.9 * spread  # where both are alike the error is cautious
    moved = [kernel_distance(classes(200, 2 * s)[0] + 0.3, classes(150, 2 * s + 1)[0],
                             (np.arange(200) % 5, np.arange(150) % 5)) for s in range(80)]  # fmt: skip
    assert 0.75 < np.mean([m.standard_error for m in moved]) / np.std([m.value for m in moved], ddof=1) < 1.35


def test_strata_in_a_paired_difference():
    (x, labels), (y, of_y) = classes(200, 1), classes(150, 2)
    a, b, strata = x + 0.2, 1.05 * x, (labels, of_y)
    found = kernel_distance_difference(a, b, y, strata)
    alone = kernel_distance(a, y, strata).value - kernel_distance(b, y, strata).value
    assert found.value == pytest.approx(alone, rel=1e-8)
    assert kernel_distance_difference(a, a, y, strata).standard_error == 0


def test_bad_input_is_refused():
    with pytest.raises(SettingsError, match="at least 2 samples of each"):
        kernel_distance(draw(10, 2, 1), draw(10, 2, 2), (np.arange(10), np.zeros(10)))
    with pytest.raises(SettingsError, match="same noise"):
        kernel_distance_difference(draw(10, 2, 1), draw(11, 2, 1), draw(10, 2, 2))
    with pytest.raises(SettingsError, match="at least 3"):
        kernel_distance(draw(2, 2, 1), draw(10, 2, 1))
    with pytest.raises(SettingsError, match="same features"):
        kernel_distance(draw(9, 2, 1), draw(10, 3, 1))
    with pytest.raises(NonFinite):
        kernel_distance(np.full((9, 2), np.inf), draw(10, 2, 1))
