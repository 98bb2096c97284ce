"""The learning rate over a round."""

import pytest

from fewstep.recipes.training_settings import OptimiserSettings
from fewstep.training.optimiser import rate


def test_learning_rate_rises_then_falls():
    settings = OptimiserSettings(warmup=0.1)
    assert rate(settings, 0.05) == pytest.approx(0.5) and rate(settings, 0.1) == pytest.approx(1)
    assert rate(settings, 0.55) == pytest.approx(0.5) and rate(settings, 1) == pytest.approx(0)
    assert rate(OptimiserSettings(warmup=0.1, schedule="linear"), 0.55) == pytest.approx(0.5)
    assert rate(OptimiserSettings(warmup=0, schedule="constant"), 0) == 1
