"""Every term against closed forms: known values, zero gradient at the optimum or its order in the step, gradient sign.

Tolerances are the estimator's own standard error.
"""

import math

import pytest
import torch

from fewstep.diffusion.noise_level_settings import LogNormalTimes, NativeTimes, UniformTimes
from fewstep.diffusion.processes import EDM, VariancePreserving
from fewstep.objectives.adversarial.loss import critic_loss, student_loss
from fewstep.objectives.common.distances import pseudo_huber, squared
from fewstep.objectives.consistency.level_pairs import nearer
from fewstep.objectives.consistency.settings import ConsistencySettings
from fewstep.objectives.denoising.settings import DenoisingSettings
from fewstep.objectives.distribution_matching.settings import DistributionMatchingSettings
from fewstep.objectives.distribution_matching.weighting import normaliser
from fewstep.objectives.flow_matching.settings import FlowMatchingSettings
from fewstep.objectives.registry import build
from fewstep.objectives.regression.settings import RegressionSettings
from tests.fewstep.objectives.gaussian import (
    IDS,
    MU,
    PROCESSES,
    SIGMAS,
    Pairs,
    S,
    States,
    consistency,
    gaussian,
    generator_of,
    gradients,
    make_step,
    mean_and_error,
    posterior_mean,
    samples,
    student,
    zero,
)


def as_type(kind):
    """What a network of this prediction type puts out when it is the exact denoiser."""

    def formula(x, alpha, sigma):
        x0 = posterior_mean(x, alpha, sigma)
        epsilon = (x - alpha * x0) / sigma
        return {
            "sample": x0,
            "epsilon": epsilon,
            "v_prediction": alpha * epsilon - sigma * x0,
            "flow_prediction": epsilon - x0,
        }[kind]

    return formula


@pytest.mark.parametrize("kind", ["sample", "epsilon", "v_prediction", "flow_prediction"])
@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_denoising_is_the_posterior_variance_and_stationary_at_the_exact_denoiser(process, kind):
    times = UniformTimes(low=0.05, high=0.95)
    term = build(DenoisingSettings(term="denoising", times=times))
    networks, data = {"student": student(process, as_type(kind), kind)}, samples(1 << 15)
    zero(*gradients(term, networks, data=data))

    found, expected = [], []
    for k in range(64):
        step = make_step(networks, n=512, k=k, data=data)
        found.append(term.loss(step)[0].detach())
        t = step.times(times)
        a, s = process.alpha(t), process.sigma(t)
        x0 = S**2 * s**2 / (a**2 * S**2 + s**2)  # variance of x0 given x_t
        factor = {"sample": 1 + (a / s) ** 2, "epsilon": (a / s) ** 2, "v_prediction": 1 + (a / s) ** 2,
                  "flow_prediction": (1 + a / s) ** 2}[kind]  # fmt: skip
        expected.append((x0 * factor).mean())
    mean, error = mean_and_error([f - e for f, e in zip(found, expected, strict=True)])
    zero(mean, error)


def test_native_times_cover_the_process_and_class_dropout_its_share():
    process = VariancePreserving.cosine()
    step = make_step({"student": student(process, as_type("sample"))}, n=4096, data=samples(4096))
    t = step.times(NativeTimes())
    assert 0 <= t.min() < 0.01 and 0.99 < t.max() <= 1 and abs(t.mean() - 0.5) < 0.02


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_noise_levels_are_those_asked_for_in_every_process(process):
    step = make_step({"student": student(process, as_type("sample"))}, n=1 << 14, data=samples(8))
    nu = step.levels.ratio(step.times(LogNormalTimes(mean=-0.4, std=1.0)))
    assert abs(nu.log().mean() + 0.4) < 0.03 and abs(nu.log().std() - 1) < 0.03
    u = step.levels.ratio(step.times(UniformTimes(low=0.02, high=0.98)))
    u = u / (1 + u)
    assert 0.019 < u.min() < 0.03 and 0.97 < u.max() < 0.981 and abs(u.mean() - 0.5) < 0.01


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_flow_matching_on_data_is_stationary_at_the_exact_denoiser_with_the_known_value(process):
    times = UniformTimes(low=0.05, high=0.95)
    term = build(FlowMatchingSettings(term="flow_matching", source="data", times=times))
    networks, data = {"student": student(process, as_type("flow_prediction"), "flow_prediction")}, samples(1 << 15)
    zero(*gradients(term, networks, data=data))
    values = []
    for k in range(64):
        step = make_step(networks, n=512, k=k, data=data)
        t = step.times(times)
        a, s = process.alpha(t), process.sigma(t)
        values.append(term.loss(step)[0].detach() - ((a + s) ** 2 * S**2 / (a**2 * S**2 + s**2)).mean())
    zero(*mean_and_error(values))


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_reflow_is_zero_at_the_straight_flow_of_the_pairs_and_pulls_back_to_it(process):
    term = build(FlowMatchingSettings(term="flow_matching", source="pairs"))

    def straight(x, alpha, sigma):
        noise = (x - alpha * MU) / (alpha * S + sigma)
        return noise - (MU + S * noise)

    own = student(process, straight, "flow_prediction")
    loss = term.loss(make_step({"student": own}, n=4096, pairs=Pairs()))[0]
    assert loss < 1e-9
    own.network.shift.data += 0.1
    loss = term.loss(make_step({"student": own}, n=4096, pairs=Pairs()))[0]
    loss.backward()
    assert abs(loss - 0.01) < 1e-4 and (own.network.shift.grad > 0).all()


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_regression_is_zero_at_the_flow_map_and_half_the_variance_at_the_mean(process):
    term = build(RegressionSettings(term="regression"))
    exact = student(process, consistency)
    loss = term.loss(make_step({"student": exact}, n=4096, pairs=Pairs()))[0]
    assert loss < 1e-4 * S**2  # EDM ends at sigma 80, not at infinity
    mean = student(process, lambda x, alpha, sigma: torch.full_like(x, MU))
    values = [term.loss(make_step({"student": mean}, n=512, k=k, pairs=Pairs()))[0].detach() for k in range(64)]
    centre, error = mean_and_error(values)
    zero(centre - S**2 / 2, error)
    mean.network.shift.data += 0.1
    loss = term.loss(make_step({"student": mean}, n=4096, pairs=Pairs()))[0]
    loss.backward()
    assert (mean.network.shift.grad > 0).all()


def test_regression_from_stored_states_uses_their_times():
    process = EDM()
    term = build(RegressionSettings(term="regression", at="states", distance="pseudo_huber"))
    assert term.loss(make_step({"student": student(process, consistency)}, n=512, pairs=States(process)))[0] < 1e-6
    assert term.loss(make_step({"student": student(process, posterior_mean)}, n=512, pairs=States(process)))[0] > 0.01


def tuning(huber, **levels):
    """Consistency tuning on data, at continuous levels."""
    points = {"kind": "data", "levels": {"kind": "gap", **levels}}
    return build(ConsistencySettings(term="consistency", huber=huber, points=points))


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_consistency_at_the_exact_function_vanishes_at_the_stated_order(process):
    """At the exact consistency function f a pair differs by O(h): the noise is not its conditional mean.

    The expected gradient of the squared distance is O(h^2): s^2 (1 - correlation of f(x_t), f(x_r)) a dimension.
    """
    data, residuals, expected = samples(1 << 16), [], []
    for cap in (0.8, 0.9, 0.95):
        times = LogNormalTimes(mean=0.0, std=0.3)
        term = tuning(huber=1e3, k=0, q=1e6, ratio_cap=cap, times=times)
        networks = {"student": student(process, consistency)}
        step = make_step(networks, n=1 << 15, data=data)
        x0, noise, t = step.batch.data, step.draws.normal("noise", like=step.batch.data), step.times(times)
        nu = step.levels.ratio(t).double()
        r = step.levels.time(nu * cap)
        far, near = (networks["student"].x0(process.add_noise(x0, noise, u), u).detach() for u in (t, r))
        residuals.append(float(squared(far, near).mean().sqrt()))

        spread = [(S**2 + level**2).sqrt() for level in (nu, nu * cap)]
        correlation = (S**2 + nu * nu * cap) / (spread[0] * spread[1])
        unweighted = 2 * S**2 * (1 - correlation)
        expected.append(float(unweighted.mean()))
        mean, error = gradients(term, networks, steps=24, n=2048, data=data)
        c = 1e3 * math.sqrt(2)
        zero(mean[2] * c - (unweighted / (nu * (1 - cap))).mean(), error[2] * c)
    orders = [math.log2(a / b) for a, b in zip(residuals, residuals[1:], strict=False)]
    assert abs(orders[-1] - 1) < 0.1, residuals
    orders = [math.log2(a / b) for a, b in zip(expected, expected[1:], strict=False)]
    assert abs(orders[-1] - 2) < 0.2, expected


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_consistency_shift_gradient_vanishes_and_has_the_right_sign(process):
    """For linear f and symmetric noise the mean of f(x_t) - f(x_r) is zero at any gap: the shift is stationary."""
    term = tuning(huber=1e3, q=2, k=0, stages=1, times=LogNormalTimes(std=1.0))
    networks, data = {"student": student(process, consistency)}, samples(1 << 15)
    mean, error = gradients(term, networks, data=data)
    zero(mean[:2], error[:2])


def test_consistency_starts_as_denoising_and_closes_the_gap_by_stages():
    nu = torch.tensor([0.01, 0.5, 2.0, 80.0], dtype=torch.float64)
    assert torch.equal(nearer(nu, 0, 2.0, 8.0, 1.0, 0.999)[:2], torch.zeros(2, dtype=torch.float64))
    gaps = [1 - nearer(nu, stage, 2.0, 8.0, 1.0, 0.999) / nu for stage in range(10)]
    for wide, narrow in zip(gaps, gaps[1:], strict=False):
        assert bool((narrow <= wide).all())
    assert torch.allclose(gaps[5] * 2**6, 1 + 8 * torch.sigmoid(-nu))  # the published formula
    assert torch.allclose(gaps[-1].clamp_min(0.001), gaps[-1])
    # With r = 0 the loss is denoising: stationary at the posterior mean, not at the consistency function.
    term = tuning(huber=1e3, k=1e9, times=LogNormalTimes(mean=0.0, std=1.0))
    zero(*gradients(term, {"student": student(EDM(), posterior_mean)}, data=samples(1 << 15)))


@pytest.mark.parametrize("sigma", [0.3, 2.0])
def test_distribution_matching_direction_has_the_closed_form_mean(sigma):
    """E[D_fake - D_teacher] = sigma^2 / (s^2 + sigma^2) (m - mu), sigma in EDM (ORACLES.md, 5)."""
    m, process = 1.5, EDM()
    fake, teacher = gaussian(process, m), gaussian(process)
    x = samples(1 << 16, mean=m)
    x_t = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    difference = (fake.x0(x_t, sigma) - teacher.x0(x_t, sigma)).double()
    mean, error = difference.mean(0), difference.std(0) / len(x) ** 0.5
    zero(mean - sigma**2 / (S**2 + sigma**2) * (m - MU), error + 1e-6)
    direction = normaliser(x, teacher.x0(x_t, sigma))[:, None] * (fake.x0(x_t, sigma) - teacher.x0(x_t, sigma))
    scale = (x - teacher.x0(x_t, sigma)).abs().mean(1, keepdim=True)
    assert torch.allclose(direction * scale, fake.x0(x_t, sigma) - teacher.x0(x_t, sigma), atol=1e-6)


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_distribution_matching_pulls_the_student_to_the_teacher_and_rests_there(process):
    term = build(DistributionMatchingSettings(term="distribution_matching"))
    for mean, sign in ((MU, 0), (MU + 0.5, 1), (MU - 0.5, -1)):
        networks = {
            "student": generator_of(process, mean),
            "teacher": gaussian(process),
            "fake_score": gaussian(process, mean),
        }
        found, error = gradients(term, networks, steps=32)
        if sign == 0:
            zero(found, error)
        else:
            assert bool((sign * found[:2] > SIGMAS * error[:2]).all()), (mean, found, error)


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_fake_score_is_stationary_at_the_denoiser_of_the_students_samples(process):
    """Its loss is the students' denoising: at the exact denoiser of N(m, s^2) the gradient vanishes."""
    m = 1.3
    term = build(DistributionMatchingSettings(term="distribution_matching"))
    fake = student(process, lambda x, a, s: posterior_mean(x, a, s, mean=m))
    own = generator_of(process, m)
    own.requires_grad_(False)
    found = []
    for k in range(64):
        step = make_step({"student": own, "fake_score": fake}, n=512, k=k, role="fake_score")
        parts = torch.autograd.grad(term.loss(step)[0], list(fake.network.parameters()))
        found.append(torch.cat([p.reshape(-1) for p in parts]))
    zero(*mean_and_error(found))


def test_adversarial_losses_have_their_known_values_and_signs():
    logits = torch.zeros(8, requires_grad=True)
    assert abs(critic_loss(logits, logits).item() - 2 * math.log(2)) < 1e-6
    loss = student_loss(logits)
    loss.backward()
    assert abs(loss.item() - math.log(2)) < 1e-6 and (logits.grad < 0).all()  # wants to be called real
    # At the optimal critic log p/q the loss is 2 log 2 - 2 JSD(p, q); JSD by quadrature.
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    p, q = (torch.exp(-0.5 * (grid - m) ** 2) / math.sqrt(2 * math.pi) for m in (0.0, 1.0))
    mix = (p + q) / 2
    jsd = torch.trapezoid(0.5 * (p * (p / mix).log() + q * (q / mix).log()), grid)
    real = torch.randn(1 << 17, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fake = 1 + torch.randn(1 << 17, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    values = torch.nn.functional.softplus(-(0.5 - real)) + torch.nn.functional.softplus(0.5 - fake)
    zero(values.mean() - (2 * math.log(2) - 2 * jsd), values.std() / len(values) ** 0.5)
    assert abs(critic_loss(0.5 - real, 0.5 - fake) - values.mean()) < 1e-9


def test_pseudo_huber_lies_between_its_limits():
    x, y = torch.randn(64, 16), torch.randn(64, 16)
    norm = (x - y).norm(dim=1)
    assert torch.allclose(pseudo_huber(x, y, 0.0), norm)
    assert torch.allclose(pseudo_huber(x, y, 1e4) * 2e4 * 4, norm**2, rtol=1e-4)
    assert torch.allclose(pseudo_huber(x, y, 0.5), (norm**2 + 4).sqrt() - 2)
    assert torch.allclose(squared(x, y), norm**2 / 16)
