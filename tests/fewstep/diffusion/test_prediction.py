"""Prediction types: every conversion is exact."""

import itertools

import pytest
import torch

from fewstep.diffusion.prediction import PREDICTION_TYPES, convert, from_pair, to_epsilon, to_x0
from fewstep.util.errors import SettingsError

PAIRS = list(itertools.product(PREDICTION_TYPES, PREDICTION_TYPES))


def state(alpha: float, sigma: float):
    x0, epsilon = torch.randn(2, 6, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alpha, sigma = (torch.tensor(value, dtype=torch.float64) for value in (alpha, sigma))
    return x0, epsilon, alpha, sigma, alpha * x0 + sigma * epsilon


@pytest.mark.parametrize("alpha, sigma", [(0.8, 0.6), (0.3, 0.7), (1.0, 5.0), (0.02, 0.9998)])
@pytest.mark.parametrize("source, target", PAIRS)
def test_every_type_converts_to_every_other(source, target, alpha, sigma):
    x0, epsilon, alpha, sigma, x = state(alpha, sigma)
    output = from_pair(x0, epsilon, alpha, sigma, source)
    assert torch.allclose(to_x0(output, x, alpha, sigma, source), x0, atol=1e-11)
    assert torch.allclose(to_epsilon(output, x, alpha, sigma, source), epsilon, atol=1e-11)
    expected = from_pair(x0, epsilon, alpha, sigma, target)
    assert torch.allclose(convert(output, x, alpha, sigma, source, target), expected, atol=1e-11)


@pytest.mark.parametrize("alpha, sigma", [(0.0, 1.0), (1.0, 0.0)])
def test_v_and_flow_predictions_are_finite_at_both_ends(alpha, sigma):
    x0, epsilon, alpha, sigma, x = state(alpha, sigma)
    for kind in ("v_prediction", "flow_prediction"):
        output = from_pair(x0, epsilon, alpha, sigma, kind)
        assert torch.allclose(to_x0(output, x, alpha, sigma, kind), x0)
        assert torch.allclose(to_epsilon(output, x, alpha, sigma, kind), epsilon)


def test_an_unknown_type_is_refused():
    x0, epsilon, alpha, sigma, x = state(0.8, 0.6)
    for call in (to_x0, to_epsilon):
        with pytest.raises(SettingsError, match="unknown prediction type 'eps'"):
            call(x0, x, alpha, sigma, "eps")
    with pytest.raises(SettingsError, match="unknown prediction type 'eps'"):
        from_pair(x0, epsilon, alpha, sigma, "eps")
