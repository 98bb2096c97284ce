"""Distribution matching against closed forms: gradients of divergences between Gaussians, value and sign, at every
setting; the Langevin chain. Tolerances are the estimator's own standard error.

Student N(m, v^2) and teacher N(MU, S^2) in two dimensions, in coordinates x / alpha: noise ratio nu, variances
B = v^2 + nu^2 and A = S^2 + nu^2.
"""

import math

import pytest
import torch

from fewstep.diffusion.noise_level_settings import LogNormalTimes, UniformTimes
from fewstep.diffusion.processes import EDM, VariancePreserving
from fewstep.objectives.common.density_ratio import EstimatesDensityRatio
from fewstep.objectives.distribution_matching.correction import corrected
from fewstep.objectives.distribution_matching.divergences import WEIGHTS
from fewstep.objectives.distribution_matching.score_identity import expanded_divergence, score_identity
from fewstep.objectives.distribution_matching.settings import Correction, DistributionMatchingSettings
from fewstep.objectives.distribution_matching.weighting import normaliser
from fewstep.objectives.registry import build
from fewstep.teachers import GaussianMixture
from fewstep.training.roles.fresh_networks import fresh_network
from fewstep.util.errors import SettingsError
from tests.fewstep.objectives.gaussian import (
    IDS,
    MU,
    PROCESSES,
    SIGMAS,
    S,
    gaussian,
    generator_of,
    gradients,
    make_step,
    zero,
)

F = {
    "reverse_kl": lambda r: -r.log(),
    "forward_kl": lambda r: r * r.log(),
    "jensen_shannon": lambda r: r * r.log() - (1 + r) * ((1 + r) / 2).log(),
    "softened_reverse_kl": lambda r: (1 + r) * ((1 + r) / (2 * r)).log(),
    "hellinger": lambda r: 4 * (1 - r.sqrt()),
    "neyman": lambda r: (1 - r) ** 2 / (2 * r),
    "jeffreys": lambda r: (r - 1) * r.log(),
}


def derivative(f, x):
    (found,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
    return found


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_second_derivatives_of_their_divergence(name):
    """h = r^2 f'' (ORACLES.md, 9), and its own derivatives, at several ratios."""
    r = torch.tensor([0.05, 0.3, 1.0, 4.0, 19.0], dtype=torch.float64, requires_grad=True)
    second = derivative(lambda x: derivative(F[name], x), r)
    weight = WEIGHTS[name]
    assert torch.allclose(weight.h(r), r**2 * second) and F[name](torch.ones(1)) == 0, name
    slope = r * derivative(weight.h, r) if name != "reverse_kl" else torch.zeros_like(r)
    assert torch.allclose(weight.slope(r), slope)
    straight = name in ("reverse_kl", "forward_kl", "jeffreys")  # h is affine
    again = torch.zeros_like(r) if straight else r**2 * derivative(lambda x: derivative(weight.h, x), r)
    assert torch.allclose(weight.curvature(r), again)


# --- fixed noise level: gradients of divergences between N(m, v^2 + nu^2) and N(MU, S^2 + nu^2), EDM -----------------

M, V, NU = 1.1, 0.6, 0.8
GRID = torch.linspace(-9, 11, 4001, dtype=torch.float64)


def density(mean, variance, x=GRID):
    return torch.exp(-0.5 * (x - mean) ** 2 / variance) / (2 * math.pi * variance) ** 0.5


def by_quadrature(functional, h=1e-3):
    """Central differences in (m, v) of functional(p, q, score of q - score of p) on the grid."""

    def value(m, v):
        a, b = S**2 + NU**2, v**2 + NU**2
        p, q = density(m, b), density(MU, a)
        return float(torch.trapezoid(functional(p, q, -(GRID - MU) / a + (GRID - m) / b), GRID))

    along_m = (value(M + h, V) - value(M - h, V)) / (2 * h)
    return torch.tensor([along_m, (value(M, V + h) - value(M, V - h)) / (2 * h)], dtype=torch.float64)


def test_score_identity_at_alpha_one_is_the_gradient_by_the_students_score_alone():
    """Half the gradient of E |teacher - fake|^2 with the samples' density held (SIM, theorem 3.1)."""
    m, v, x, _, teacher, fake, _ = drawn()
    found, error = per_sample_gradient(score_identity(x, teacher, fake, 1.0), m, v)
    held = density(M, V**2 + NU**2)
    expected = 0.5 * by_quadrature(lambda p, q, d: held * (NU**2 * d) ** 2)
    zero(found - expected, error)
    assert bool((expected.abs() > 10 * error).all())


def drawn(count=1 << 18):
    """(m, v, x, x_t, teacher, fake, ratio) in one dimension: the student's samples with a graph to m and v, noised."""
    source = torch.Generator().manual_seed(4)
    z, noise = (torch.randn(count, 1, generator=source, dtype=torch.float64) for _ in range(2))
    m, v = (torch.full((count, 1), value, dtype=torch.float64, requires_grad=True) for value in (M, V))
    x = m + v * z
    x_t = x + NU * noise
    a, b = S**2 + NU**2, V**2 + NU**2  # of the networks, whose weights are held
    teacher, fake = MU + S**2 / a * (x_t - MU), M + V**2 / b * (x_t - M)
    at = x_t.detach()
    ratio = (density(MU, a, at) / density(M, b, at))[:, 0]
    return m, v, x, x_t, teacher, fake, ratio


def per_sample_gradient(values, m, v):
    """Mean (2,) over samples of d value / d (m, v), and its standard error."""
    found = torch.cat(torch.autograd.grad(values.sum(), (m, v)), dim=1)
    return found.mean(0), found.std(0) / len(found) ** 0.5


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_weighted_score_difference_is_the_gradient_of_the_divergence(name):
    """E h(r) (fake - teacher) dx / nu^2 = d D_f (f-distill, theorem 1)."""
    m, v, x, _, teacher, fake, ratio = drawn()
    direction = (WEIGHTS[name].h(ratio)[:, None] * (fake - teacher)).detach()
    found, error = per_sample_gradient((x * direction / NU**2).sum(1), m, v)
    expected = by_quadrature(lambda p, q, _: p * F[name](q / p))
    zero(found - expected, error)
    assert bool((expected.abs() > 10 * error).all())


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_score_identity_is_the_gradient_of_the_expanded_divergence(name):
    """Half the gradient of E h(r) |teacher - fake|^2 with networks and ratio held, by the density's own change too."""
    m, v, x, x_t, teacher, fake, ratio = drawn()
    factor = torch.full((len(x),), 1 / NU**2, dtype=torch.float64)
    loss = expanded_divergence(x, x_t, teacher, fake, 0.5, WEIGHTS[name], ratio, factor)
    found, error = per_sample_gradient(loss, m, v)
    h = WEIGHTS[name].h
    expected = 0.5 * by_quadrature(lambda p, q, d: p * h(q / p) * (NU**2 * d) ** 2)
    zero(found - expected, error)
    assert bool((expected.abs() > 10 * error).all())


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.2])
def test_score_identity_has_the_known_value_and_for_equal_variances_one_gradient(alpha):
    """Value (1 - alpha) delta^2 with delta = nu^2 / (s^2 + nu^2) (m - mu); dL/dm the same for all (ORACLES.md, 6)."""
    m = torch.full((1 << 17, 1), M, dtype=torch.float64, requires_grad=True)
    source = torch.Generator().manual_seed(6)
    x = m + S * torch.randn(m.shape, generator=source, dtype=torch.float64)
    x_t = x + NU * torch.randn(m.shape, generator=source, dtype=torch.float64)
    share = S**2 / (S**2 + NU**2)
    teacher, fake = MU + share * (x_t - MU), M + share * (x_t - M)
    values = score_identity(x, teacher, fake, alpha)
    delta = (1 - share) * (M - MU)
    zero(values.mean() - (1 - alpha) * delta**2, values.std() / len(values) ** 0.5)
    (found,) = torch.autograd.grad(values.sum(), m)
    zero(found.mean() - delta * (1 - share), found.std() / len(found) ** 0.5)


# --- the term --------------------------------------------------------------------------------------------------------


class ExactRatio(EstimatesDensityRatio):
    """Stands for an adversarial term whose head is perfect."""

    def __init__(self, teacher, own):
        self.teacher, self.own = teacher, own

    def trains(self, role):
        return False

    def log_ratio(self, step, what, times):
        at = step.shared.raised(what, times)
        return self.teacher.log_prob(at.x, at.t) - self.own.log_prob(at.x, at.t)


TIMES = UniformTimes(low=0.1, high=0.9)
SETTINGS = {
    "dmd": {},
    "diff-instruct": {"weighting": "x0", "times": LogNormalTimes(mean=-0.5, std=1.0)},
    "vsd": {"weighting": "epsilon"},
    "f": {"divergence": "jensen_shannon"},
    "sid": {"gradient": "score_identity", "alpha": 1.2},
    "sim": {"gradient": "score_identity"},
    "uni": {"gradient": "score_identity", "divergence": "jeffreys"},
    "emd": {"correction": {"steps": 2}},
}


def graphs(term):
    return frozenset(role for role in ("teacher", "fake_score") if term.differentiates(role))


def networks_of(process, mean):
    return {"student": generator_of(process, mean), "teacher": gaussian(process), "fake_score": gaussian(process, mean)}


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_pulls_the_student_to_the_teacher_and_rests_there(name, process):
    term = build(DistributionMatchingSettings(term="distribution_matching", **({"times": TIMES} | SETTINGS[name])))
    for mean, sign in ((MU, 0), (MU + 0.5, 1), (MU - 0.5, -1)):
        networks = networks_of(process, mean)
        ratio = ExactRatio(networks["teacher"], networks["fake_score"])
        found, error = gradients(term, networks, steps=16, n=256, terms=[ratio], graphs=graphs(term))
        if sign == 0:
            zero(found, error + 1e-6)
        else:
            assert bool((sign * found[:2] > SIGMAS * error[:2]).all()), (mean, found, error)


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_level_weights_make_the_score_identity_the_kl_divergence_of_the_samples(process):
    """weighting: likelihood has the gradient of KL(student | teacher) to the mean, (m - MU) / S^2."""
    mean = MU + 0.3
    times = UniformTimes(low=1e-3, high=1 - 1e-3)
    one = DistributionMatchingSettings(
        term="distribution_matching", gradient="score_identity", weighting="likelihood", times=times
    )
    term = build(one)
    found, error = gradients(term, networks_of(process, mean), steps=32, n=2048, graphs=graphs(term))
    expected = torch.full((2,), 0.3 / S**2, dtype=torch.float64)
    zero(found[:2] - expected, error[:2] + 0.005)  # what lies outside the times
    assert bool((error[:2] < 0.05 * expected).all())


def test_the_chain_samples_the_teacher_and_cancels_its_noise():
    """Long chains reach the joint of teacher and posterior: x_t has the teacher's moments. Where student and teacher
    agree nothing drifts, and one step of the chain is the difference of the scores."""
    n, mean, process = 1 << 13, MU + 0.6, EDM()
    one = torch.ones(n, dtype=torch.float64)
    teacher, own = gaussian(process), gaussian(process, mean)

    def draws(name):
        return torch.randn(n, 2, generator=torch.Generator().manual_seed(hash_of(name)), dtype=torch.float64)

    def chain(difference, steps, size=0.05):
        start = (draws("z"), draws("e"), one, NU * one)
        return corrected(lambda z: mean + S * z, difference, *start, draws,
                         Correction(steps=steps, noise_size=size, latent_size=size))  # fmt: skip

    def difference(x, x_t):
        return teacher.predict(x_t, NU).score - own.predict(x_t, NU).score

    kept = []

    def watched(x, x_t):
        kept.append(x_t)
        return difference(x, x_t)

    chain(watched, 120)
    assert abs(kept[0].mean() - mean) < 0.03 and abs(kept[-1].mean() - MU) < 0.05
    assert abs(kept[-1].var() - (S**2 + NU**2)) < 0.06
    _, drift = chain(difference, 1)
    x_t = mean + S * draws("z") + NU * draws("e")
    assert torch.allclose(drift, NU * difference(None, x_t))
    assert not chain(lambda x, x_t: torch.zeros_like(x_t), 3)[1].any()


def hash_of(name: str) -> int:
    return sum(ord(letter) * 131**k for k, letter in enumerate(name)) % 2**31


def test_the_normaliser_is_the_inverse_error_and_guidance_covers_its_range():
    x, y = torch.randn(64, 5), torch.randn(64, 5)
    assert torch.allclose(normaliser(x, y), 1 / (x - y).abs().mean(1))
    term = build(DistributionMatchingSettings(term="distribution_matching", guidance={"low": 1.5, "high": 3.0}))
    drawn_scales = term._guidance(make_step(networks_of(EDM(), MU), n=4096))
    assert 1.5 <= drawn_scales.min() < 1.51 and 2.99 < drawn_scales.max() <= 3
    fixed = build(DistributionMatchingSettings(term="distribution_matching", guidance=2.0))
    assert fixed._guidance(make_step(networks_of(EDM(), MU), n=2)) == 2.0


def test_random_guidance_pulls_as_its_mean_does():
    """Of samples of a class: the gradient is linear in the scale (PG-SB; the normalised weight apart)."""
    teacher = GaussianMixture([[0.6, 0.0], [-0.6, 0.3]], [0.5, 0.7])
    networks = {"teacher": teacher, "student": fresh_network(teacher, 0), "fake_score": fresh_network(teacher, 1)}

    def gradient(guidance, k: int) -> torch.Tensor:
        own = {"term": "distribution_matching", "weighting": "x0", "guidance": guidance}
        loss = build(DistributionMatchingSettings(**own)).loss(make_step(networks, n=2048, k=k))[0]
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, networks["student"].parameters())])

    drawn, middle, low = zip(*[[gradient(s, k) for s in ({"low": 1.0, "high": 3.0}, 2.0, 1.0)] for k in range(12)],
                             strict=True)  # fmt: skip
    along = torch.stack(middle).mean(0) - torch.stack(low).mean(0)
    off = torch.stack([(one - other) @ along / along.square().sum() for one, other in zip(drawn, middle, strict=True)])
    error = float(off.std() / len(off) ** 0.5)
    assert abs(float(off.mean())) < 4 * error < 0.4  # of the way from 1 to 2


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="correction"):
        DistributionMatchingSettings(term="distribution_matching", correction={}, gradient="score_identity")
    with pytest.raises(ValueError, match="lies above"):
        DistributionMatchingSettings(term="distribution_matching", guidance={"low": 3, "high": 1})
    with pytest.raises(ValueError, match="lies above"):
        DistributionMatchingSettings(term="distribution_matching", ratio_limits=(2, 1))
    term = build(DistributionMatchingSettings(term="distribution_matching", divergence="neyman"))
    with pytest.raises(SettingsError, match="adversarial"):
        term.loss(make_step(networks_of(VariancePreserving.cosine(), MU), n=4))


@pytest.mark.parametrize("huber", [None, 0.0, 0.3])
def test_a_sample_follows_the_scores_by_their_distance_or_by_no_more_than_one(huber):
    """d / D of the squared distance, d / sqrt(|d|^2 + c^2) with c = huber sqrt(D) of the pseudo-Huber one."""
    term = build(DistributionMatchingSettings(term="distribution_matching", huber=huber))
    source = torch.Generator().manual_seed(0)
    x, d = (torch.randn(5, 3, dtype=torch.float64, generator=source) for _ in range(2))
    (found,) = torch.autograd.grad(term._surrogate(x.requires_grad_(), d), x)
    length2 = d.square().sum(1, keepdim=True)
    expected = d / 3 if huber is None else d / (length2 + 3 * huber**2).sqrt()
    assert torch.allclose(found, expected / 5, rtol=1e-9, atol=1e-12)
