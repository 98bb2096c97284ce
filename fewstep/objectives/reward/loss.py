"""Reward: the student's samples climb a differentiable function of the sample."""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewstep.networks.feature_classifier import train_classifier
from fewstep.objectives.reward.settings import ClassifierReward, LinearReward, PythonReward, RewardSettings
from fewstep.objectives.term import Loss, Term
from fewstep.util.errors import SettingsError

if TYPE_CHECKING:
    from fewstep.networks.network_facts import NetworkFacts
    from fewstep.training.step.step_context import Step

RewardFunction = Callable[[Tensor, Tensor | None], Tensor]
FITTED_ON = 4096
"""Labelled samples that a classifier is fitted to, at most."""


class Reward(Term[RewardSettings]):
    """L = -E min(r(x), clamp), x the student's samples.

    Beside a KL divergence to the teacher, weighted 1, a reward weighted w has the optimum p(x) ~ p_teacher(x) exp(w
    r(x)): the tilted distribution (Diff-Instruct*, Luo et al., 2410.20898, section 3.1). `clamp` keeps a reward that
    the teacher attains from being exploited (SwiftBrush v2, Dao et al., 2408.14176, eq. 8, a hinge on the similarity).
    """


    def require(self, facts: "NetworkFacts") -> None:
        if isinstance(self.settings.reward, ClassifierReward) and facts.prompts:
            raise SettingsError("the classifier's reward needs classes, and this teacher's conditions are prompts",
                                hint="reward prompts by a function of your own (kind: python)")  # fmt: skip
        if isinstance(self.settings.reward, LinearReward):
            facts.require_one_size("a reward along a direction")

    def prepare(self, step: "Step", seed: int) -> None:
        self._function = build_reward(self.settings.reward, step, seed)

    def loss(self, step: "Step") -> Loss:
        reward = self._function(step.shared.generated.float(), step.batch.condition)
        counted = reward if self.settings.clamp is None else reward.clamp(max=self.settings.clamp)
        return -counted.mean(), {"reward": reward.mean().detach()}


def build_reward(reward: LinearReward | ClassifierReward | PythonReward, step: "Step", seed: int) -> RewardFunction:
    """The function (x (N, ...), condition (N,) or None) -> (N,) of these settings.

    Raises SettingsError for a direction longer than a sample, a function that cannot be imported, or a classifier that
    cannot be had.
    """
    if isinstance(reward, LinearReward):
        return _linear(reward.direction, step)
    if isinstance(reward, PythonReward):
        function, student = _imported(reward.function), step.student
        return lambda x, condition: function(student.decoded(x), condition)
    posterior = getattr(step.networks["teacher"], "log_posterior", None)
    if posterior is None:
        posterior = _fitted(step, seed, reward.fit_steps)
    null, classes = step.student.null_class, step.student.num_classes

    def log_probability(x: Tensor, condition: Tensor | None) -> Tensor:
        if condition is None:
            raise SettingsError("the classifier's reward needs a network with classes")
        named = condition < classes if null is None else (condition < classes) & (condition != null)
        found = posterior(x).to(x.dtype).gather(1, torch.where(named, condition, 0)[:, None])[:, 0]
        return torch.where(named, found, torch.zeros_like(found))

    return log_probability


def _linear(direction: list[float], step: "Step") -> RewardFunction:
    size = step.shared.generated[0].numel()
    if len(direction) > size:
        raise SettingsError(f"reward.direction: {len(direction)} numbers for samples of {size} dimensions")
    slope = torch.zeros(size, device=step.shared.generated.device)
    slope[: len(direction)] = torch.tensor(direction)
    return lambda x, condition: x.flatten(1) @ slope.to(x.dtype)


def _imported(name: str) -> RewardFunction:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"reward.function: cannot import '{name}': {error}") from error


def _fitted(step: "Step", seed: int, steps: int) -> Callable[[Tensor], Tensor]:
    """x (N, C, H, W) -> log-probabilities (N, classes) of a classifier fitted to the labelled data from `seed`."""
    x, y = step.batch.examples(FITTED_ON)
    if y is None or x.ndim != 4:
        raise SettingsError("the classifier's reward needs labelled images, or a mixture of Gaussians as the teacher")
    with torch.enable_grad():
        model = train_classifier(x.cpu(), y.cpu(), step.student.num_classes, seed=seed, steps=steps)
    model = model.to(step.draws.device).eval().requires_grad_(False)
    return lambda images: model(images).log_softmax(1)
