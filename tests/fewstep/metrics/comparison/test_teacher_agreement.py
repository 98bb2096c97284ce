"""Agreement on the same noise: known differences, and no credit for the average image."""

import numpy as np
import pytest

from fewstep.metrics.comparison.teacher_agreement import agreement
from fewstep.util.errors import SettingsError


def draw(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 1, 4, 4))


def test_known_difference_and_correlation():
    target, error = draw(2000, 1), draw(2000, 2)
    found = agreement(target + 0.5 * error, target)
    assert found.rms_interval[0] < 0.5 < found.rms_interval[1]
    assert found.correlation_interval[0] < 1 / 1.25**0.5 < found.correlation_interval[1]
    assert agreement(target, target).rms == 0 and agreement(target, target).correlation == pytest.approx(1)


def test_a_common_mean_image_earns_no_correlation_and_neither_does_a_class_mean():
    labels = np.arange(3000) % 3
    shared = 5 * draw(3, 9)[labels]
    found = agreement(shared + draw(3000, 1), shared + draw(3000, 2), labels)
    assert abs(found.correlation) < 0.03
    assert agreement(shared + draw(3000, 1), shared + draw(3000, 2)).correlation > 0.8


def test_input_is_left_alone_and_bad_input_refused():
    a, b = draw(30, 1), draw(30, 2)
    kept = a.copy(), b.copy()
    agreement(a, b)
    assert np.array_equal(a, kept[0]) and np.array_equal(b, kept[1])
    with pytest.raises(SettingsError, match="equal stacks"):
        agreement(a, b[:29])
