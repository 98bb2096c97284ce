"""What stands for data, stored outputs and conditions while a run is rehearsed: zeros of the right shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fewstep.diffusion.conditions import CachedTable
from fewstep.families.family import Field


class Samples:
    """Data of `shape`; labels 0 … labels − 1 in turn, none for 0."""

    def __init__(self, shape: tuple[int, ...], labels: int):
        self.shape, self.num_classes = shape, labels

    def batch(self, seed: int, position: int, size: int) -> tuple[Tensor, Tensor | None]:
        """See DataSource."""
        labels = torch.arange(position, position + size) % self.num_classes if self.num_classes else None
        return torch.zeros(size, *self.shape), labels


class Outputs:
    """A teacher's stored outputs for samples of `shape`, with states at `times` (native) where there are any."""

    def __init__(self, shape: tuple[int, ...], labels: int, times: Sequence[float] = ()):
        self._samples, self._times = Samples(shape, labels), torch.tensor(times)

    def batch(self, seed: int, position: int, size: int) -> dict[str, Any]:
        """See PairSource."""
        x, labels = self._samples.batch(seed, position, size)
        found = {"noise": torch.zeros_like(x), "x": x}
        if labels is not None:
            found["condition"] = labels
        if len(self._times):
            found |= {"states": x[:, None].repeat(1, len(self._times), *(1 for _ in x.shape[1:])), "times": self._times}
        return found


class Conditions(CachedTable):
    """As many conditions of these fields as a rehearsal asks for, and one that stands for none."""

    COUNT = 64

    def __init__(self, fields: Mapping[str, Field], null: bool):
        self._fields = fields
        super().__init__(torch.full((self.COUNT,), self.COUNT) if null else torch.arange(self.COUNT),
                         self.COUNT + null)  # fmt: skip

    def read(self, rows: Tensor) -> dict[str, Tensor]:
        """See CachedTable."""
        return {name: torch.zeros(len(rows), *one.shape, dtype=getattr(torch, one.dtype))
                for name, one in self._fields.items()}  # fmt: skip
