"""What a network may take beside x, t and the label: a second time, a guidance scale, negative times.

A denoiser says by `ExtraInputs` what its network takes and passes values as `Given`; how a network is given such inputs
and how they are folded away again stands in fewstep.networks.extra_inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn


@dataclass(frozen=True)
class GuidanceRange:
    """Guidance scales from `low` to `high`; `sample` is the one a student is sampled and exported at."""

    low: float
    high: float
    sample: float


@dataclass(frozen=True)
class ExtraInputs:
    """What a network takes beside x, t and the label."""

    second_time: bool = False
    guidance: GuidanceRange | None = None
    negative: bool = False

    def __bool__(self) -> bool:
        return self.second_time or self.guidance is not None or self.negative

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready description."""
        further = {"negative": True} if self.negative else {}
        return {"second_time": self.second_time, "guidance": vars(self.guidance) if self.guidance else None, **further}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> ExtraInputs:
        """The inputs that `to_dict` described."""
        scales = data["guidance"]
        return ExtraInputs(
            data["second_time"], GuidanceRange(**scales) if scales else None, data.get("negative", False)
        )


class Given(NamedTuple):
    """One batch of inputs: labels (N,) int64, angle (N,) of the second time, guidance scale (N,), whether the time is
    negative (N,), as 0 or 1; None: no such input.

    It takes the place of the labels in the call of a network that embeds those; others are handed it (`handed`).
    """

    labels: Tensor | None
    angle: Tensor | None
    scale: Tensor | None
    negative: Tensor | None = None


class TakesGiven(nn.Module):
    """A module within a network that reads what the network's call has no argument for: `given`, during a call."""

    given: Given | None = None


@contextmanager
def handed(network: nn.Module, given: Given) -> Iterator[None]:
    """Hands `given` to the modules of the network that take it, for one call within the context."""
    takers = [module for module in network.modules() if isinstance(module, TakesGiven)]
    for taker in takers:
        taker.given = given
    try:
        yield
    finally:
        for taker in takers:
            taker.given = None
