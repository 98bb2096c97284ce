"""What the next step asks of the CPU, made in a thread while the device does this one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

from fewstep.training.step.keyed_draws import Draws, Make
from fewstep.util.background import Background


class Ahead:
    """The draws of steps that follow each other, of which the next one's random numbers and samples are made ahead.

    A step asks for what the last one of its kind asked for: that is made, and whatever else it asks for when it asks.
    All of it is a function of the step, so that it is the same whoever makes it, and when. An error of what was made
    ahead is raised where that step begins. One thing is made at a time, for the sake of readers that keep a place.

    Args:
        draws_of: the draws of a step. kind_of: by which steps ask for the same, such as the role whose turn it is.
        steps: how many there are; none is made ahead of the last one's end.
    """

    def __init__(self, draws_of: Callable[[int], Draws], kind_of: Callable[[int], Hashable], steps: int):
        self._draws_of, self._kind_of, self._steps = draws_of, kind_of, steps
        self._asked: dict[Hashable, Mapping[str, Make]] = {}
        self._next: Draws | None = None
        self._making, self._background = threading.Lock(), Background("ahead")

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self._background.join()

    def draws(self, step: int) -> Draws:
        """Those of this step; from now on the next one's are made."""
        self._background.wait()
        found = self._next if self._next is not None and self._next.step == step else self._fresh(step)
        self._next = None
        wanted = self._asked.get(self._kind_of(step + 1), {}) if step + 1 < self._steps else {}
        self._asked[self._kind_of(step)] = found.asked      # filled while this step asks
        if wanted:
            self._next = following = self._fresh(step + 1)
            self._background.start(lambda: self._make(following, wanted))
        return found

    def _fresh(self, step: int) -> Draws:
        draws = self._draws_of(step)
        draws.making = self._making
        return draws

    @staticmethod
    def _make(draws: Draws, wanted: Mapping[str, Make]) -> None:
        for key, make in wanted.items():
            with draws.making:
                draws.made_ahead[key] = pinned(make(draws), draws.device)


def pinned(value: Any, device: torch.device) -> Any:
    """The tensors of a value, alone or in a tuple or dict, in memory that a GPU copies from by itself."""
    if isinstance(value, tuple):
        return tuple(pinned(part, device) for part in value)
    if isinstance(value, dict):
        return {name: pinned(part, device) for name, part in value.items()}
    return value.pin_memory() if isinstance(value, Tensor) and device.type == "cuda" else value
