"""Everything random in a step, as a pure function of (seed, round, step, purpose): no generator state to save."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fewstep.diffusion.randomness import generator
from fewstep.util.device import sent

Make = Callable[["Draws"], Any]
"""Something of a step on the CPU, as a function of its draws."""


class Draws:
    """The random tensors of one step's whole batch, each drawn once and shared by the parts of the batch.

    Drawn on the CPU, so that every device trains on the same numbers, and moved to `device`.

    Attributes:
        asked: what was asked for, by name. made_ahead: what was made of it before it is asked for (see ahead.py).
        making: held while one thing is made.
    """

    def __init__(
        self,
        seed: int,
        round_index: int,
        step: int,
        batch: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ):
        self.seed, self.round_index, self.step, self.batch, self.device = seed, round_index, step, batch, device
        self.dtype = dtype
        self.asked: dict[str, Make] = {}
        self.made_ahead: dict[str, Any] = {}
        self.making: AbstractContextManager = nullcontext()
        self._made: dict[str, Any] = {}

    def here(self, key: str, make: Make) -> Any:
        """What `make` gives of these draws, on the CPU; where it was made ahead, that."""
        self.asked[key] = make
        if key in self.made_ahead:
            return self.made_ahead.pop(key)
        with self.making:
            return make(self)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make()` returned the first time this name was asked for."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def _draw(self, kind: str, name: str, make: Callable[[Draws, torch.Generator], Tensor]) -> Tensor:
        """`make` of these draws and the generator of this name, on the device. It must hold no draws of its own."""
        key = f"{kind}/{name}"

        def made(draws: Draws) -> Tensor:
            return make(draws, draws.generator(key))

        return self.once(key, lambda: sent(self.here(key, made), self.device))

    def normal(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """(batch, *shape) N(0, I), drawn in float32, of type `dtype`."""
        return self._draw(f"normal {shape}", name, lambda draws, source: torch.randn(
            draws.batch, *shape, generator=source).to(draws.dtype))  # fmt: skip

    def uniform(self, name: str) -> Tensor:
        """(batch,) uniform in [0, 1), float64: noise levels are computed from it."""
        return self._draw("uniform", name, lambda draws, source: torch.rand(
            draws.batch, generator=source, dtype=torch.float64))  # fmt: skip

    def uniform_here(self, name: str) -> Tensor:
        """The same as `uniform` on the CPU, drawn again: its values can be looked at without waiting for a device."""
        return torch.rand(self.batch, generator=self.generator(f"uniform/{name}"), dtype=torch.float64)

    def gaussian(self, name: str) -> Tensor:
        """(batch,) N(0, 1), float64."""
        return self._draw("gaussian", name, lambda draws, source: torch.randn(
            draws.batch, generator=source, dtype=torch.float64))  # fmt: skip

    def integers(self, name: str, high: int) -> Tensor:
        """(batch,) uniform in 0 ... high - 1, int64."""
        return self._draw(f"integers {high}", name, lambda draws, source: torch.randint(
            high, (draws.batch,), generator=source))  # fmt: skip

    def generator(self, name: str) -> torch.Generator:
        """A fresh CPU generator of this name, for what is drawn for the whole batch at once."""
        return generator(self.seed, f"training/{name}", self.round_index, self.step)

    def integer(self, name: str, high: int) -> int:
        """One integer for the whole batch, uniform in 0 ... high - 1."""
        return int(torch.randint(high, (), generator=self.generator(f"integer {high}/{name}")))


class PartDraws:
    """The rows of one part of `whole`, the draws of a step's batch. Equal names are equal draws within a step.

    Args:
        part: the rows. sample_shape: of what `normal` draws unless told otherwise.
        filled: what `full` made in steps before, which are not written to.
    """

    def __init__(self, whole: Draws, part: slice, sample_shape: tuple[int, ...],
                 filled: dict[tuple, Tensor] | None = None):  # fmt: skip
        self.whole, self.part, self.device = whole, part, whole.device
        self.size = len(range(*part.indices(whole.batch)))
        self._shape = sample_shape
        self._filled = {} if filled is None else filled

    @cached_property
    def rows(self) -> Tensor:
        """0 ... size - 1, to index one entry per sample."""
        return torch.arange(self.size, device=self.device)

    def full(self, value: float) -> Tensor:
        """(size,) float32 of one value, such as one native time: of equal values the same tensor."""
        key = value, self.size, self.device
        if key not in self._filled:
            self._filled[key] = torch.full((self.size,), value, device=self.device)
        return self._filled[key]

    def normal(self, name: str, like: Tensor | None = None) -> Tensor:
        """(size, *sample shape) N(0, I); of the shape of the samples `like` where they are given."""
        return self.whole.normal(name, tuple(self._shape if like is None else like.shape[1:]))[self.part]

    def uniform(self, name: str) -> Tensor:
        """(size,) uniform in [0, 1), float64."""
        return self.whole.uniform(name)[self.part]

    def uniform_here(self, name: str) -> Tensor:
        """The same on the CPU: its values can be looked at without waiting for a device."""
        return self.whole.uniform_here(name)[self.part]

    def gaussian(self, name: str) -> Tensor:
        """(size,) N(0, 1), float64."""
        return self.whole.gaussian(name)[self.part]

    def integers(self, name: str, high: int) -> Tensor:
        """(size,) uniform in 0 ... high - 1."""
        return self.whole.integers(name, high)[self.part]

    def integer(self, name: str, high: int) -> int:
        """One integer for the whole batch, uniform in 0 ... high - 1."""
        return self.whole.integer(name, high)

    def generator(self, name: str) -> torch.Generator:
        """A CPU generator for what the whole batch has in common."""
        return self.whole.generator(name)
