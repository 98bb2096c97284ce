"""Regression on the teacher's denoised samples (ADD's score distillation) against its closed form.

Student N(m, v^2), teacher N(MU, S^2) in two dimensions, noise ratio nu: the teacher's denoiser of x / alpha = x0 + nu n
is MU + c (x0 + nu n - MU) with c = S^2 / (S^2 + nu^2), so a sample misses it by (1 - c)(x0 - MU) - c nu n.
"""

import pytest
import torch

from fewstep.diffusion.noise_level_settings import UniformTimes
from fewstep.objectives.registry import build
from fewstep.objectives.regression.settings import RegressionSettings
from tests.fewstep.objectives.gaussian import (
    IDS,
    MU,
    PROCESSES,
    S,
    gaussian,
    generator_of,
    make_step,
    mean_and_error,
    zero,
)

TIMES = UniformTimes(low=0.1, high=0.8)


def found_and_expected(process, mean, std, weighting, steps=48, n=512):
    """(K, 4) of loss and gradients to shift (2) and gain, over K batches: the term's and the closed form's."""
    term = build(RegressionSettings(term="regression", at="samples", weighting=weighting, times=TIMES))
    networks = {"student": generator_of(process, mean, std), "teacher": gaussian(process)}
    found, expected = [], []
    for k in range(steps):
        step = make_step(networks, n=n, k=k)
        loss, _ = term.loss(step)
        parts = torch.autograd.grad(loss, list(networks["student"].network.parameters()))
        found.append(torch.cat([loss.detach().reshape(1), *(part.reshape(-1) for part in parts)]).double())

        nu = step.levels.ratio(step.shared.noised("fake", TIMES)[1]).double()
        weight = 1 / (1 + nu**2).sqrt() if weighting == "alpha" else torch.ones_like(nu)
        c, off = S**2 / (S**2 + nu**2), mean - MU
        value = 0.5 * (weight * ((1 - c) ** 2 * (off**2 + std**2) + (c * nu) ** 2)).mean()
        pull = (weight * (1 - c)).mean()
        expected.append(torch.stack([value, pull * off / 2, pull * off / 2, pull * (std**2 + mean * off)]))
    return torch.stack(found), torch.stack(expected)


@pytest.mark.parametrize("weighting", ["none", "alpha"])
@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_score_distillation_has_the_known_value_and_gradient(process, weighting):
    """The target gets no gradient: with one, (1 - c)^2 would stand where (1 - c) does."""
    found, expected = found_and_expected(process, 1.2, 0.4, weighting)
    zero(*mean_and_error(list(found - expected)))
    mean, error = mean_and_error(list(found))
    assert bool((mean > 10 * error).all())  # above the teacher's mean: pulled down


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_score_distillation_rests_at_the_teachers_mean_alone(process):
    """Its bias: the mean is the teacher's where the gradient to it vanishes, but every spread is pulled inward, the
    teacher's own too, by E w (1 - c) v^2; nothing is left of that only where all samples are the mean."""
    for std in (0.5 * S, S):
        mean, error = mean_and_error(list(found_and_expected(process, MU, std, "alpha")[0]))
        zero(mean[1:3], error[1:3])
        assert mean[3] > 10 * error[3]
    one_point = found_and_expected(process, MU, 0.0, "alpha")[0]
    zero(*mean_and_error(list(one_point[:, 1:])))
