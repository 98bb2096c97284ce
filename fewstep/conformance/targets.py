"""What students promise to sample, by a recipe's `target`: reference samples, modes, and what a solver makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewstep.diffusion.denoiser import Denoiser, Prediction
from fewstep.diffusion.guidance import Scales, is_guided
from fewstep.diffusion.randomness import generator
from fewstep.diffusion.sampling import sample
from fewstep.students.sampler_settings import SamplerSettings
from fewstep.students.student import Student
from fewstep.teachers import GaussianMixture
from fewstep.util.errors import SettingsError

if TYPE_CHECKING:
    from fewstep.recipes import Recipe

MANY, MANY_STEPS = "dpmsolver++", 64
"""The solver and steps that stand for a guided ODE's exact solution."""


class Target:
    """The teacher's own distribution, as exact samples: what a `few-step` student promises.

    Attributes:
        mixture: the closed form whose samples are the target.
        guidance: at which solvers are compared.
        cheaper: the student is to agree with `flow` sample by sample, at less cost than the teacher.
        about: what the recipe changes about the teacher's distribution, if anything.
    """

    guidance = 1.0
    cheaper = False
    about = ""

    def __init__(self, teacher: GaussianMixture, recipe: Recipe, sampler: SamplerSettings):
        self.teacher = self.mixture = teacher
        self.recipe, self.sampler = recipe, sampler

    def describe(self) -> list:
        """What the target is, beside the problem: by it references are remembered."""
        return [self.recipe.target, self.guidance, self.mixture.means.tolist(), self.mixture.weights.tolist()]

    def condition(self, count: int) -> Tensor | None:
        """Labels (count,) under which student and solvers sample; None: the whole mixture."""
        return None

    def asked(self, count: int) -> Tensor | None:
        """Labels (count,) that the student is asked for: of several that share the classes every component by its
        weight, so that each answers; else as the solvers."""
        if self.recipe.students == 1:
            return self.condition(count)
        edges = self.mixture.weights.cumsum(0)
        places = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        return torch.searchsorted(edges, places).clamp_max(len(edges) - 1)

    def samples(self, count: int, seed: int) -> Tensor:
        """(count, ...) samples of the target."""
        return self.mixture.exact_samples(count, generator(seed, "conformance/exact"))

    def ignored(self, count: int, seed: int) -> Tensor:
        """(count, ...) exact samples of a student that is blind to what the recipe is `about`, by the same draws."""
        return self.teacher.exact_samples(count, generator(seed, "conformance/exact"), self.condition(count))

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

    about = "guidance"

    def __init__(self, teacher: GaussianMixture, recipe: Recipe, sampler: SamplerSettings):
        super().__init__(teacher, recipe, sampler)
        self.guidance = guidance_of(recipe)

    def condition(self, count: int) -> Tensor | None:
        return torch.arange(count) % self.teacher.num_classes if is_guided(self.guidance) else None

    def samples(self, count: int, seed: int) -> Tensor:
        noise = torch.randn(count, *self.teacher.sample_shape, generator=generator(seed, "conformance/guided"))
        return self.flow(noise)

    def flow(self, noise: Tensor) -> Tensor:
        return self.solve(noise, MANY, MANY_STEPS, 0)


class Stepped(Guided):
    """What the teacher makes of the same noise by the student's own steps, guided or not: for cheaper students."""

    cheaper, about = True, ""  # agreement sample by sample tells

    def __init__(self, teacher: GaussianMixture, recipe: Recipe, sampler: SamplerSettings):
        super().__init__(teacher, recipe, sampler)
        self.stepping = Student(Asked(teacher, self.guidance), sampler)

    def describe(self) -> list:
        return [*super().describe(), self.stepping.sampler.model_dump()]

    def flow(self, noise: Tensor) -> Tensor:
        return self.stepping.sample(noise, condition=self.condition(len(noise)))


class Asked:
    """A teacher that is always asked with this guidance."""

    def __init__(self, teacher: Denoiser, guidance: Scales):
        self.teacher, self.guidance, self.process, self.family = teacher, guidance, teacher.process, teacher.family
        self.require_samples = teacher.require_samples

    def predict(self, x: Tensor, t: Tensor | float, condition: Tensor | None = None) -> Prediction:
        return self.teacher.predict(x, t, condition, self.guidance)


class Tilted(Target):
    """The teacher's distribution reweighted by exp of a linear reward: the optimum beside a KL divergence."""

    about = "reward"

    def __init__(self, teacher: GaussianMixture, recipe: Recipe, sampler: SamplerSettings):
        super().__init__(teacher, recipe, sampler)
        self.mixture = teacher.tilted(slope_of(recipe, teacher.means[0].numel()))


def slope_of(recipe: Recipe, size: int) -> Tensor:
    """(size,) gradient of the linear rewards of a recipe's last round, whose weights are meant beside a KL divergence.

    Raises SettingsError if there is none.
    """
    terms = recipe.rounds[-1].terms
    slope = torch.zeros(size, dtype=torch.float64)
    for term in terms:
        if term.term == "reward" and term.reward.kind == "linear":
            direction = torch.tensor(term.reward.direction, dtype=torch.float64)[:size]
            slope[: len(direction)] += term.weight * direction
    if not slope.any():
        raise SettingsError(f"recipe {recipe.name}: target tilted, but no linear reward is set")
    return slope


def guidance_of(recipe: Recipe) -> Scales:
    """The guidance scale that a recipe's student is to show: 1 for compression unless set.

    Raises SettingsError if another recipe names none.
    """
    own = recipe.student.guidance_input
    if own is not None:
        return own.sample
    scales = recipe.all_guidance
    if not scales and recipe.target == "compression":
        return 1.0
    if not scales:
        raise SettingsError(f"recipe {recipe.name}: target {recipe.target}, but no guidance scale is set")
    return scales[-1]


TARGETS: dict[str, type[Target]] = {
    "bridge": Target,  # of bridges from a Gaussian: their data end is the mixture
    "compression": Stepped,
    "few-step": Target,
    "guidance": Stepped,
    "guided": Guided,
    "tilted": Tilted,
}


def target_of(recipe: Recipe, teacher: GaussianMixture, sampler: SamplerSettings) -> Target:
    """The target that a recipe declares, for a student that samples so.

    Raises SettingsError if it cannot be told on this teacher.
    """
    if recipe.target not in TARGETS:
        raise SettingsError(f"recipe {recipe.name}: no judge for the target {recipe.target} yet")
    return TARGETS[recipe.target](teacher, recipe, sampler)
