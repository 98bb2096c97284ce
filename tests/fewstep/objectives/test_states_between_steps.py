"""The states between a student's steps: noise levels within an interval, the regression there, and what several steps
rest at. Tolerances are the estimator's own standard error.
"""

import math

import pytest
import torch

from fewstep.diffusion.noise_level_settings import LogNormalTimes, NativeTimes, UniformTimes
from fewstep.diffusion.noise_levels import distribution
from fewstep.diffusion.processes import Flow
from fewstep.objectives.distribution_matching.settings import DistributionMatchingSettings
from fewstep.objectives.registry import build
from fewstep.recipes import parse_recipe
from fewstep.training.step.renoise import raise_level
from fewstep.util.errors import SettingsError
from tests.fewstep.objectives.gaussian import (
    IDS,
    MU,
    PROCESSES,
    SIGMAS,
    Pairs,
    S,
    consistency,
    flow_map,
    gaussian,
    generator_of,
    gradients,
    leading_to,
    make_step,
    mean_and_error,
    posterior_mean,
    samples,
    student,
    zero,
)

TIMES = UniformTimes(low=0.1, high=0.9)


@pytest.mark.parametrize("times", [UniformTimes(low=0.2, high=0.7), NativeTimes(), LogNormalTimes(mean=0.2, std=0.7)])
@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_times_are_restricted_to_an_interval_and_their_density_is_known(times, process):
    step = make_step({"student": student(process, posterior_mean)}, n=1 << 14)
    nu = step.levels.ratio(step.times(times).double())
    inside = (nu > 0.6) & (nu < 1.5)
    low, high = (float(process.time(torch.tensor(-2 * math.log(r), dtype=torch.float64))) for r in (0.6, 1.5))
    held = step.levels.ratio(step.times(times, "held", (low, high)).double())
    assert held.min() > 0.599 and held.max() < 1.501
    # the restricted distribution is the conditional one, and the density integrates to its share
    for share in (0.25, 0.5, 0.75):
        expected = nu[inside].quantile(share).log()
        assert abs(held.quantile(share).log() - expected) < 0.05, (share, held.quantile(share), expected.exp())
    grid = torch.linspace(math.log(0.6), math.log(1.5), 400, dtype=torch.float64)
    mass = torch.trapezoid(distribution(times, step.levels).density(process.time(-2 * grid)), grid)
    assert abs(mass - inside.double().mean()) < 4 * (float(mass) / len(nu)) ** 0.5 + 2e-3


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_regression_on_states_within_an_interval_is_unbiased(process):
    """Its least-squares line is the posterior mean, with no access to clean samples (ORACLES.md, 7)."""
    low, high = (process.time(torch.tensor(-2 * math.log(r), dtype=torch.float64)) for r in (0.5, 2.0))
    x = samples(1 << 18).double()
    source = torch.Generator().manual_seed(8)
    state = process.add_noise(x, torch.randn(x.shape, generator=source, dtype=torch.float64), low)
    noise = torch.randn(x.shape, generator=source, dtype=torch.float64)
    at = raise_level(process, state, float(low), noise, high.expand(len(x)))
    alpha, sigma = process.alpha(high), process.sigma(high)
    assert torch.allclose(alpha * at.x0 + sigma * at.noise, at.x)
    variance = alpha**2 * S**2 + sigma**2
    zero((at.x.square().mean(0) - (alpha * MU) ** 2 - variance) / variance, torch.full((2,), 1.5 / len(x) ** 0.5))
    residual = at.x0 - posterior_mean(at.x, alpha, sigma)
    zero(residual.mean(0), residual.std(0) / len(x) ** 0.5)
    along = residual * (at.x - alpha * MU)
    zero(along.mean(0), along.std(0) / len(x) ** 0.5)
    # in flow time: the published target
    if process.kind == "flow":
        s, t = float(low), float(high)
        b = math.sqrt(t**2 - ((1 - t) / (1 - s)) ** 2 * s**2)
        published = -state / (1 - s) + noise * (t + (1 - t) * s**2 / (1 - s) ** 2) / b
        assert torch.allclose(at.noise - at.x0, published)
    else:
        assert torch.allclose(at.weight.double(), (noise / at.noise).square().mean(1), rtol=1e-5)


def two_steps(process):
    """A student whose two deterministic steps follow the teacher's flow exactly, and its grid."""
    first, middle = float(process.time(torch.tensor(-9.0))), float(process.time(torch.tensor(0.0)))
    a, s = (float(f(torch.tensor(middle, dtype=torch.float64))) for f in (process.alpha, process.sigma))

    def formula(x, alpha, sigma):
        exact = consistency(x, alpha, sigma)
        jump = leading_to(flow_map(x, alpha, sigma, a, s), x, alpha, sigma, a, s)
        return torch.where(sigma / alpha > 10, jump, exact)

    return student(process, formula), [first, middle]


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_with_fresh_noise_the_clean_samples_themselves_are_noised_within_the_interval(process):
    """Renoising to a step's end and on from there is noising at once: the regression keeps its clean target."""
    own, grid = two_steps(process)
    seen = set()
    for k in range(8):
        step = make_step({"student": own}, n=64, k=k, role="fake_score", grid=grid, sampler="renoise")
        at = step.shared.raised("phases", TIMES)
        low, high = [*grid[1:], process.t_min][step.shared.exit], grid[step.shared.exit]
        assert torch.equal(at.x0, step.shared.generated) and torch.equal(at.weight, torch.ones(64))
        assert torch.allclose(at.x, process.add_noise(at.x0, at.noise, at.t))
        assert bool(((at.t >= low - 1e-5) & (at.t <= high + 1e-5)).all())
        seen.add(step.shared.exit)
    assert seen == {0, 1}


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_states_between_deterministic_steps_rest_at_the_teachers_flow(process):
    """The student's state after each step has the teacher's marginal, so its scores agree and nothing pulls; the fake
    score's regression rests at the teacher's denoiser. Moved predictions are pulled back."""
    own, grid = two_steps(process)
    term = build(DistributionMatchingSettings(term="distribution_matching", at="phases", times=TIMES))
    fake = student(process, posterior_mean)
    found, seen = [], set()
    for k in range(48):
        step = make_step({"student": own, "fake_score": fake}, n=512, k=k, role="fake_score", grid=grid, sampler="ode")
        parts = torch.autograd.grad(term.loss(step)[0], list(fake.network.parameters()))
        found.append(torch.cat([p.reshape(-1) for p in parts]))
        level, t = step.shared.exit, step.levels.ratio(step.shared.raised("phases", TIMES).t)
        seen.add(level)
        assert level or t.min() > 0.99
        assert not level or t.max() < 1.01
    mean, error = mean_and_error(found)
    zero(mean, error + 1e-3)  # sampling starts at a finite noise level
    assert seen == {0, 1}
    own.network.shift.data += 0.2
    states = {}
    for k in range(8):
        step = make_step({"student": own, "teacher": gaussian(process)}, n=4096, k=k, grid=grid, sampler="ode")
        states[step.shared.exit] = step.shared._after(step.shared._exit_prediction, step.shared.exit).detach()
    end = states[1].mean() - MU  # clean: what remains of the first step's shift, and all of the second's
    assert end > 0.2
    fakes = gaussian(process, MU + 0.2)
    mean, error = gradients(
        term, {"student": own, "teacher": gaussian(process), "fake_score": fakes}, steps=24, grid=grid, sampler="ode"
    )
    assert bool((mean[:2] > SIGMAS * error[:2]).all())


@pytest.mark.parametrize("inputs", ["own", "data", "pairs"])
def test_a_later_step_is_given_what_the_round_says(inputs):
    """The student's own samples lie elsewhere than the data, and those elsewhere than the pairs'."""
    means = {"own": MU + 0.6, "data": MU, "pairs": MU - 0.6}
    own, n = generator_of(Flow(), means["own"]), 1 << 12
    grid = [1.0, 0.5]
    seen = set()
    for k in range(6):
        step = make_step({"student": own}, n=n, k=k, grid=grid, inputs=inputs, data=samples(n, mean=means["data"]),
                         pairs=Pairs(mean=means["pairs"]))  # fmt: skip
        seen.add(step.shared.exit)
        state, t = step.shared.exit_state, torch.tensor(grid[step.shared.exit])
        alpha, sigma = Flow().alpha(t), Flow().sigma(t)
        variance = float(alpha**2 * S**2 + sigma**2) if step.shared.exit else 1.0
        off = state.double().mean() - float(alpha) * means[inputs]
        assert abs(float(off)) < 4.5 * (variance / state.numel()) ** 0.5, (step.shared.exit, off)
        assert float(state.var()) == pytest.approx(variance, rel=0.05)
    assert seen == {0, 1}


def test_steps_that_are_given_samples_of_one_source_go_with_terms_of_that_source():
    ladd = {"term": "adversarial", "features": "teacher", "real": "pairs"}
    turns = {"student": 1, "discriminator": 1}
    one = {"inputs": "pairs", "terms": [ladd], "turns": turns}
    assert parse_recipe({"name": "x", "rounds": [one]}, "x").needs.pairs
    with pytest.raises(SettingsError, match="labels of their own"):
        parse_recipe({"name": "x", "rounds": [one | {"inputs": "data"}]}, "x")
