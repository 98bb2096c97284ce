"""The mixtures on which recipes are proven: what is hard about each is said in its function."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.diffusion.processes import EDM, BrownianBridge, Flow, Process, VariancePreserving
from fewstep.diffusion.randomness import generator
from fewstep.teachers import GaussianMixture
from fewstep.util.config import unknown
from fewstep.util.errors import SettingsError

PROCESSES = {
    "cosine": VariancePreserving.cosine,
    "linear": lambda: VariancePreserving.scheduled("linear"),
    "edm": EDM,
    "flow": Flow,
    "bridge": BrownianBridge,
}


def ring(source: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Eight modes of std 0.1 on the unit circle: any missing mode shows, and the mean is where nothing is."""
    angles = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    return torch.stack([angles.cos(), angles.sin()], 1), torch.full((8,), 0.1), torch.ones(8)


def grid(source: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Four groups two apart, each of four modes of std 0.05 half apart: structure at two scales."""
    side = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    corners = torch.cartesian_prod(side, side)
    means = (corners[:, None] + 0.25 * corners[None]).reshape(16, 2)
    return means, torch.full((16,), 0.05), torch.ones(16)


def nested(source: torch.Generator) -> tuple[Tensor, Tensor, Tensor, list[range]]:
    """The grid, whose four groups are labels too: guidance has a scale for the group and one for the mode in it."""
    return *grid(source), [range(first, first + 4) for first in range(0, 16, 4)]


def widths(source: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A 3 x 3 grid whose modes are narrow (0.05) and wide (0.2) in turn."""
    side = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    return torch.cartesian_prod(side, side), torch.tensor([0.05, 0.2] * 4 + [0.05]), torch.ones(9)


def pair(source: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Two modes twenty deviations apart, of weights 0.8 and 0.2: a gradient at one does not know of the other."""
    means = torch.tensor([[-3.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    return means, torch.full((2,), 0.3), torch.tensor([0.8, 0.2])


def random(source: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Five to nine modes at random places of the plane, of random weights (at most 1 : 4) and widths."""
    count = 5 + int(torch.randint(5, (), generator=source))
    means = 1.2 * torch.randn(count, 2, generator=source, dtype=torch.float64)
    stds = 0.05 * 4 ** torch.rand(count, generator=source)
    return means, stds, 1 + 3 * torch.rand(count, generator=source)


MIXTURES = {kind.__name__: kind for kind in (ring, grid, pair, widths, random, nested)}
SUITE = ("ring", "grid", "pair")


@dataclass(frozen=True)
class Problem:
    """A mixture and the process that noises it.

    Attributes:
        kind: of MIXTURES. process: of PROCESSES.
        dimension: from 2; more turn the plane of the means to a random direction of a space of so many dimensions.
        variant: keys what is random about the mixture.
    Raises SettingsError for a kind or process that is not known.
    """

    kind: str
    process: str = "cosine"
    dimension: int = 2
    variant: int = 0

    def __post_init__(self):
        for value, known, what in ((self.kind, MIXTURES, "problem"), (self.process, PROCESSES, "process")):
            if value not in known:
                raise SettingsError(unknown(what, value, tuple(known)))
        if self.dimension < 2:
            raise SettingsError(f"a problem has two dimensions or more, not {self.dimension}")

    @property
    def name(self) -> str:
        """Such as "ring" or "ring, edm, 8 dimensions, variant 1"."""
        default = Problem(self.kind)
        words = [self.kind, self.process if self.process != default.process else "",
                 f"{self.dimension} dimensions" if self.dimension != default.dimension else "",
                 f"variant {self.variant}" if self.variant != default.variant else ""]  # fmt: skip
        return ", ".join(word for word in words if word)

    def teacher(self) -> GaussianMixture:
        """The closed-form teacher."""
        source = generator(self.variant, f"problem/{self.kind}", self.dimension)
        means, stds, weights, *groups = MIXTURES[self.kind](source)
        if self.dimension > 2:
            frame = torch.linalg.qr(torch.randn(self.dimension, 2, generator=source, dtype=torch.float64)).Q
            means = means @ frame.T
        return GaussianMixture(means, stds, weights, self.made_process(), *groups)

    def made_process(self) -> Process:
        """The noise process."""
        return PROCESSES[self.process]()
