"""The derivative along a direction against finite differences, in both networks and every process."""

import pytest
import torch

from fewstep.diffusion.adapters import Angle
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.processes import EDM, Flow
from fewstep.networks.initial_weights import build
from fewstep.networks.unet_mlp import ResidualMLP, new_unet
from fewstep.objectives.common.derivatives import jvp
from tests.fewstep.objectives.gaussian import IDS, PROCESSES

STEP = 2.0**-5  # of a timestep: whole ones and their parts are exact in float32, in which networks take the time


def networks(process):
    kind = "sample" if isinstance(process, EDM) else "v_prediction"
    mlp = build(lambda: ResidualMLP((2,), 4))
    unet = new_unet(8, 1, 3)
    return {
        "mlp": Denoiser(mlp, process, "v_prediction", (2,), 3, 3, Angle()),
        "unet": Denoiser(unet, process, kind, (1, 8, 8), 3, 3),
    }


@pytest.mark.parametrize("name", ["mlp", "unet"])
@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_derivatives_are_those_of_finite_differences(process, name):
    denoiser = networks(process)[name].double().requires_grad_(True)
    draw = torch.Generator().manual_seed(1)
    x, along = (torch.randn(3, *denoiser.sample_shape, generator=draw, dtype=torch.float64) for _ in range(2))
    scale = 1000.0 if isinstance(process, Flow) else 999.0
    t = torch.tensor([120.25, 500.5, 873.75], dtype=torch.float64) / scale
    small = STEP / scale
    if name == "mlp":
        small /= 256  # far below the period of any of its waves
    condition = torch.tensor([0, 2, 3])

    def function(x, t):
        return denoiser.predict(x, t, condition).x0

    value, derivative = jvp(function, (x, t), (along, torch.full_like(t, 0.5)))
    with torch.no_grad():
        ahead = function(x + small * along, t + 0.5 * small) - function(x - small * along, t - 0.5 * small)
    expected = ahead / (2 * small)
    error = (derivative - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert (error < 1e-3).all(), error
    torch.testing.assert_close(value, function(x, t))


@pytest.mark.parametrize("name", ["mlp", "unet"])
def test_gradients_flow_through_the_value_and_not_through_the_derivative(name):
    denoiser = networks(Flow())[name].requires_grad_(True)
    x, t = torch.randn(2, *denoiser.sample_shape), torch.tensor([0.3, 0.8])
    condition = torch.tensor([0, 1])

    def function(x, t):
        return denoiser.predict(x, t, condition).x0

    weights = [p for p in denoiser.parameters() if p.requires_grad]
    value, derivative = jvp(function, (x, t), (x, torch.ones_like(t)))
    assert not derivative.requires_grad
    found = torch.autograd.grad((value * derivative).sum(), weights, allow_unused=True)
    expected = torch.autograd.grad((function(x, t) * derivative).sum(), weights, allow_unused=True)
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(jvp(function, (x, t), (x, torch.ones_like(t)))[1], derivative)


def test_the_rounding_of_whole_timesteps_has_no_part_in_the_derivative():
    denoiser = networks(PROCESSES[0])["unet"].double()
    x, t = torch.randn(2, 1, 8, 8, dtype=torch.float64), torch.tensor([999.0, 999 - 2e-3], dtype=torch.float64) / 999
    x[1] = x[0]
    _, found = jvp(lambda t: denoiser.predict(x, t).as_type("v_prediction"), (t,), (torch.ones_like(t),))
    torch.testing.assert_close(found[0], found[1], rtol=0.02, atol=0.02 * float(found[1].abs().max()))
