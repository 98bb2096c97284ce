"""What students promise to sample, by a recipe's `target`: reference samples, modes, and what a solver makes of it."""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.errors import SettingsError
from fewstep.randomness import generator
from fewstep.recipes import Recipe
from fewstep.sampling import sample
from fewstep.teachers import GaussianMixture

MANY, MANY_STEPS = "dpmsolver++", 64
"""The solver and steps that stand for a guided ODE's exact solution."""


class Target:
    """The teacher's own distribution, as exact samples: what a `few-step` student promises.

    Attributes: mixture, the closed form whose samples are the target; guidance, at which solvers are compared.
    """

    guidance = 1.0

    def __init__(self, teacher: GaussianMixture, recipe: Recipe):
        self.teacher = self.mixture = teacher
        self.recipe = recipe

    def describe(self) -> list:
        """What the target is, beside the problem: by it references are remembered."""
        return [self.recipe.target, self.guidance]

    def condition(self, count: int) -> Tensor | None:
        """Labels (count,) under which student and solvers sample; None: the whole mixture."""
        return None

    def samples(self, count: int, seed: int) -> Tensor:
        """(count, ...) samples of the target."""
        return self.mixture.exact_samples(count, generator(seed, "conformance/exact"))

    def solve(self, noise: Tensor, solver: str, steps: int, seed: int) -> Tensor:
        """What a training-free solver makes of the noise (N, ...)."""
        return sample(
            self.mixture, noise, solver=solver, steps=steps, condition=self.condition(len(noise)),
            guidance=self.guidance, generator=generator(seed, "conformance/solver"),
        ).x  # fmt: skip

    def flow(self, noise: Tensor) -> Tensor:
        """The end of the exact ODE from the noise (N, ...)."""
        process = self.mixture.process
        return self.mixture.flow(process.initial(noise), process.t_max, process.t_min, steps=128)

    def modes(self, x: Tensor) -> Tensor:
        """The component (N,) that each sample most probably came from."""
        label = torch.zeros(len(x), dtype=torch.int64)
        given = [self.mixture.log_prob(x, condition=label + k) for k in range(self.mixture.num_classes)]
        return (torch.stack(given, 1) + self.mixture.weights.log()).argmax(1)


class Guided(Target):
    """The end of the guided ODE, under labels drawn evenly, solved in many steps."""

    def __init__(self, teacher: GaussianMixture, recipe: Recipe):
        super().__init__(teacher, recipe)
        self.guidance = guidance_of(recipe)

    def condition(self, count: int) -> Tensor:
        return torch.arange(count) % self.teacher.num_classes

    def samples(self, count: int, seed: int) -> Tensor:
        noise = torch.randn(count, *self.teacher.sample_shape, generator=generator(seed, "conformance/guided"))
        return self.flow(noise)

    def flow(self, noise: Tensor) -> Tensor:
        return self.solve(noise, MANY, MANY_STEPS, 0)


class Tilted(Target):
    """The teacher's distribution reweighted by exp of a linear reward: the optimum beside a KL divergence."""

    def __init__(self, teacher: GaussianMixture, recipe: Recipe):
        super().__init__(teacher, recipe)
        self.mixture = teacher.tilted(slope_of(recipe, teacher.means[0].numel()))


def slope_of(recipe: Recipe, size: int) -> Tensor:
    """(size,) gradient of the linear rewards of a recipe's last round, per unit of its divergence.

    Raises SettingsError if there is none.
    """
    terms = recipe.rounds[-1].terms
    matching = sum(term.weight for term in terms if term.term == "distribution_matching")
    slope = torch.zeros(size, dtype=torch.float64)
    for term in terms:
        if term.term == "reward" and term.reward.kind == "linear":
            direction = torch.tensor(term.reward.direction, dtype=torch.float64)[:size]
            slope[: len(direction)] += term.weight * direction
    if not matching or not slope.any():
        raise SettingsError(f"recipe {recipe.name}: target tilted, but no linear reward beside a divergence is set")
    return slope / matching


def guidance_of(recipe: Recipe) -> float:
    """The guidance scale that a recipe's student is to show. Raises SettingsError if it names none."""
    found = [r.trajectories.guidance for r in recipe.rounds]
    found += [getattr(term, "guidance", 1.0) for r in recipe.rounds for term in r.terms]
    scales = [scale for scale in found if isinstance(scale, float) and scale != 1]
    if not scales:
        raise SettingsError(f"recipe {recipe.name}: target {recipe.target}, but no guidance scale is set")
    return scales[-1]


TARGETS: dict[str, type[Target]] = {"few-step": Target, "guided": Guided, "tilted": Tilted}


def target_of(recipe: Recipe, teacher: GaussianMixture) -> Target:
    """The target that a recipe declares. Raises SettingsError if it cannot be told on this teacher."""
    if recipe.target not in TARGETS:
        raise SettingsError(f"recipe {recipe.name}: no judge for the target {recipe.target} yet")
    return TARGETS[recipe.target](teacher, recipe)
