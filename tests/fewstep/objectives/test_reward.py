"""Rewards: their gradient, their limit, and the closed form of the tilted mixture."""

import pytest
import torch

from fewstep.diffusion.processes import EDM
from fewstep.objectives.registry import build
from fewstep.objectives.reward.settings import RewardSettings
from fewstep.teachers import GaussianMixture
from fewstep.util.errors import SettingsError
from tests.fewstep.objectives.gaussian import MU, gaussian, generator_of, make_step


def prepared(reward: dict, clamp=None, n=512):
    """(term, step) with the student at N(MU, S^2)."""
    term = build(RewardSettings(term="reward", reward=reward, clamp=clamp))
    step = make_step({"student": generator_of(EDM(), MU), "teacher": gaussian(EDM())}, n=n)
    term.prepare(step, 0)
    return term, step


def test_a_linear_reward_has_its_direction_as_gradient_and_zero_beyond():
    term, step = prepared({"kind": "linear", "direction": [3.0]})
    loss, figures = term.loss(step)
    (gradient,) = torch.autograd.grad(loss, step.student.network.shift)
    assert torch.allclose(gradient, torch.tensor([-3.0, 0.0])) and torch.allclose(figures["reward"], -loss)
    with pytest.raises(SettingsError, match="3 numbers for samples of 2"):
        prepared({"kind": "linear", "direction": [1.0, 2.0, 3.0]})


def test_a_clamped_reward_stops_pulling_where_it_is_attained():
    term, step = prepared({"kind": "linear", "direction": [1.0, 0.0]}, clamp=MU, n=4096)
    loss, _ = term.loss(step)
    (gradient,) = torch.autograd.grad(loss, step.student.network.shift)
    below = (step.shared.generated[:, 0] < MU).float().mean()
    assert torch.allclose(gradient[0], -below) and 0.45 < below < 0.55


def double(x, condition):
    """A reward for the test below."""
    return 2 * x.sum(1)


def test_a_python_function_is_imported_or_refused():
    term, step = prepared({"kind": "python", "function": f"{__name__}:double"})
    assert torch.allclose(-term.loss(step)[0], 2 * step.shared.generated.sum(1).mean())
    for name in ("no_such_module:f", f"{__name__}:nothing"):
        with pytest.raises(SettingsError, match="cannot import"):
            prepared({"kind": "python", "function": name})
    with pytest.raises(ValueError, match="pattern"):
        RewardSettings(term="reward", reward={"kind": "python", "function": "no colon"})


def test_the_classifier_of_a_mixture_is_its_posterior():
    """With two equal components: log sigmoid of the log-ratio; finite, with a gradient, far from both; 0 unlabelled."""
    teacher = GaussianMixture([[1.0, 0.0], [-1.0, 0.0]], 0.5)
    x = torch.randn(64, 2, requires_grad=True)
    found = teacher.log_posterior(x)
    expected = torch.nn.functional.logsigmoid(8 * x[:, 0].double())  # (|x + 1|^2 - |x - 1|^2) / (2 s^2)
    assert torch.allclose(found[:, 0], expected) and torch.allclose(found.exp().sum(1), torch.ones(64).double())
    far = torch.tensor([[-400.0, 3.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(teacher.log_posterior(far)[0, 0], far)
    assert torch.allclose(gradient, torch.tensor([[8.0, 0.0]]))

    term = build(RewardSettings(term="reward", reward={"kind": "classifier"}))
    own = GaussianMixture([[1.0, 0.0], [-1.0, 0.0]], 0.5)
    step = make_step({"student": own, "teacher": teacher}, n=256)
    term.prepare(step, 0)
    condition = step.batch.condition
    assert set(condition.tolist()) == {0, 1}
    found = teacher.log_posterior(step.shared.generated)[torch.arange(256), condition]
    assert torch.allclose(term.loss(step)[1]["reward"].double(), found.mean())
    step.batch.__dict__["condition"] = torch.full_like(condition, 2)  # the null label
    assert term.loss(step)[0] == 0


def test_tilting_a_mixture_is_reweighting_its_samples():
    """Moments of the tilted mixture are those of the samples weighted by exp <b, x>."""
    teacher = GaussianMixture([[1.0, 0.0], [-1.0, 0.5]], [0.5, 0.3], [0.4, 0.6])
    slope = torch.tensor([0.7, -0.4], dtype=torch.float64)
    x = teacher.exact_samples(1 << 18, torch.Generator().manual_seed(1)).double()
    weight = (x @ slope).exp()
    weight = weight / weight.mean()
    tilted = teacher.tilted(slope)
    y = tilted.exact_samples(1 << 18, torch.Generator().manual_seed(2)).double()
    for moment in (lambda v: v, torch.square, lambda v: v.prod(1, keepdim=True)):
        one, other = weight[:, None] * moment(x), moment(y)
        error = ((one.var(0) + other.var(0)) / len(x)).sqrt()
        assert bool(((one.mean(0) - other.mean(0)).abs() < 4.5 * error).all())
    ratio = tilted.log_prob(x[:64]) - teacher.log_prob(x[:64]) - x[:64] @ slope
    assert ratio.std() < 1e-9  # the same constant everywhere
    assert torch.allclose(teacher.tilted([0.7]).means, teacher.tilted([0.7, 0.0]).means)
