"""Continuous-time consistency against closed forms: the tangent of the exact function is zero, and pulls to it."""

import pytest
import torch

from fewstep.diffusion.noise_level_settings import LogNormalTimes
from fewstep.diffusion.processes import Flow
from fewstep.objectives.continuous_consistency.loss import LevelWeight, normalised
from fewstep.objectives.continuous_consistency.settings import ContinuousConsistencySettings
from fewstep.objectives.registry import build
from tests.fewstep.objectives.gaussian import (
    IDS,
    MU,
    PROCESSES,
    S,
    States,
    consistency,
    gaussian,
    gradients,
    make_step,
    posterior_mean,
    samples,
    step_of,
    student,
)


def term(**choice):
    points = choice.pop("points", {"kind": "data", "times": LogNormalTimes(mean=0.0, std=1.0)})
    own = build(ContinuousConsistencySettings(term="continuous_consistency", warmup=0.0, points=points, **choice))
    own.heads = {"student": LevelWeight(2)}
    return own


def as_velocity(x, alpha, sigma):
    """The exact consistency function f as TrigFlow's F = (cos u - f) / sin, in the process's own scale (v)."""
    return (alpha * x - (alpha**2 + sigma**2) * consistency(x, alpha, sigma)) / sigma


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_the_tangent_of_the_exact_function_is_zero_and_that_of_a_denoiser_is_not(process):
    """ORACLES.md, 4. On data and on stored states; F is disturbed by nothing."""
    exact = student(process, as_velocity, "v_prediction")
    networks, data = {"student": exact, "teacher": gaussian(process)}, samples(512)
    loss, figures = term().loss(make_step(networks, n=512, data=data))
    assert figures["tangent"] < 1e-3 and figures["error"] < 1e-4
    stored = term(points={"kind": "trajectory"}).loss(step_of(networks, n=512, pairs=States(process)))
    assert stored[1]["tangent"] < 1e-3
    step = make_step(networks, n=512, data=data)
    wide, narrow = (float(term(difference=gap).loss(step)[1]["tangent"]) for gap in (0.2, 0.1))
    assert wide < 0.1 and 0.4 < narrow / wide < 0.6  # of first order in the gap
    networks["student"] = student(process, posterior_mean)
    assert term().loss(make_step(networks, n=512, data=data))[1]["tangent"] > 0.05


@pytest.mark.parametrize("difference", [0.0, 0.1])
def test_the_derivative_is_taken_without_rounding_to_bfloat16(difference):
    own = student(Flow(), lambda *state: posterior_mean(*state) @ torch.tensor([[0.8, -0.6], [0.6, 0.8]]))
    step = make_step({"student": own, "teacher": gaussian(Flow())}, n=64, data=samples(64))
    exact = term(difference=difference)
    plain = exact.loss(step)[1]["tangent"]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(exact.loss(step)[1]["tangent"], plain)


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_the_tangent_is_the_derivative_of_the_function_along_the_flow(process):
    """g = cos df/dphi, against central differences along the exact flow of a student that is not consistent."""
    own, teacher = student(process, posterior_mean), gaussian(process)
    step = make_step({"student": own, "teacher": teacher}, n=64, data=samples(64))
    state, velocity = term()._points(step)
    t = step.student.process.time(-2 * state.nu.log())
    found = term().loss(step)[1]["tangent"]
    angle, h = state.nu.atan(), 1e-4

    def moved(shift):
        after = angle + shift
        there = process.time(-2 * after.tan().log())
        x = state.x.double() * process.alpha(t)[:, None]
        spread = ((S**2 * after.cos() ** 2 + after.sin() ** 2) / (S**2 * angle.cos() ** 2 + angle.sin() ** 2)).sqrt()
        unit = x / process.scale(t)[:, None]
        unit = after.cos()[:, None] * MU + (unit - angle.cos()[:, None] * MU) * spread[:, None]
        return own.x0(unit * process.scale(there)[:, None], there)

    expected = angle.cos()[:, None] * (moved(h) - moved(-h)) / (2 * h)
    assert torch.allclose(found.double(), expected.square().mean().sqrt().detach(), rtol=0.02)


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_training_on_data_is_stationary_in_the_mean_and_a_shift_is_pulled_back(process):
    """With data's own velocity the expected tangent is that of the flow: linear here, so its mean vanishes."""
    exact = student(process, as_velocity, "v_prediction")
    own = term(velocity="data", tangent_floor=1e3)  # so large that normalisation is a constant factor
    mean, error = gradients(own, {"student": exact}, steps=16, data=samples(1 << 13))
    assert bool((mean[:2].abs() <= 4.5 * error[:2] + 1e-9).all())
    networks = {"student": exact, "teacher": gaussian(process)}
    for shift in (0.3, -0.3):
        networks["student"].network.shift.data.fill_(shift)
        mean, error = gradients(term(), networks, steps=3, data=samples(1 << 12))
        assert bool((shift * mean[:2] > 0).all())


def test_normalisation_bounds_the_tangent_and_the_weight_starts_even():
    g = torch.randn(8, 3, 4, 4) * torch.logspace(-3, 3, 8)[:, None, None, None]
    sizes = normalised(g, 0.1).flatten(1).square().mean(1).sqrt()
    before = g.flatten(1).square().mean(1).sqrt()
    assert torch.allclose(sizes, before / (before + 0.1)) and sizes.max() < 1
    assert torch.equal(LevelWeight(4)(torch.rand(8)), torch.zeros(8))


def test_the_networks_own_derivative_comes_in_over_the_warm_up():
    process = PROCESSES[1]
    networks = {"student": student(process, posterior_mean), "teacher": gaussian(process)}
    own = build(ContinuousConsistencySettings(term="continuous_consistency", warmup=0.5))
    own.heads = {"student": LevelWeight(2)}
    found = []
    for progress in (0.0, 0.25, 0.5, 0.9):
        step = make_step(networks, n=256, data=samples(256))
        step.progress = progress
        found.append(float(own.loss(step)[1]["tangent"]))
    assert found[0] < 1e-3 and found[1] < found[2] == found[3]  # a denoiser has the teacher's velocity
