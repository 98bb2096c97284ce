"""A round's trainer on a made-up device, whose tensors have shapes and no values: torch's "meta".

Whoever looks at a value there, which on a GPU would wait for all that was asked of it, meets an error: `item`, `bool`,
`nonzero`, a copy to the CPU. What is set up lies on the CPU and is moved as to a GPU.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fewstep.diffusion.denoiser import Denoiser
from fewstep.recipes import Recipe
from fewstep.students.student import Student
from fewstep.training import Distillation, RoundTrainer, RunOptions
from fewstep.training.step.batches import DataSource
from fewstep.trajectories import TrajectorySettings

DEVICE = torch.device("meta")


class NoWaiting(TorchFunctionMode):
    """Inside, a copy from the CPU to the made-up device that would be waited for is an error."""

    def __torch_function__(self, function, types, arguments=(), named=None):
        named = named or {}
        found = function(*arguments, **named)
        if isinstance(found, Tensor) and found.device == DEVICE and _waits(function, arguments, named):
            raise RuntimeError(f"{function.__name__} from the CPU to the device waits for it")
        return found


def _waits(function, arguments: tuple, named: dict) -> bool:
    if function in (torch.tensor, torch.as_tensor):
        return not (isinstance(arguments[0], Tensor) and arguments[0].device == DEVICE)
    if function not in (Tensor.to, Tensor.copy_) or named.get("non_blocking"):
        return False
    source = arguments[0] if function is Tensor.to else arguments[1]
    return source.device != DEVICE


@contextmanager
def known_to_torch() -> Iterator[None]:
    """Inside, optimisers and autocast take the made-up device as they would a GPU."""
    plain, adamw = torch.autocast, torch.optim.AdamW

    def autocast(device_type: str, *arguments, **named):
        return plain("cpu" if device_type == DEVICE.type else device_type, *arguments, **named)

    def unfused(parameters, fused: bool | None = None, **named):
        return adamw(parameters, foreach=fused, **named)

    with mock.patch("torch.autocast", autocast), mock.patch("torch.optim.AdamW", unfused):
        yield


class MadeUp(Distillation):
    """A run of which round `wanted` is on the made-up device; the rounds before it train nothing."""

    wanted: int

    def _options_of(self, index: int) -> RunOptions:
        own = super()._options_of(index)
        return dataclasses.replace(own, device=DEVICE) if index == self.wanted else own

    def _run(self, index: int, on_progress: object) -> Student:
        trainer, sampler = self.trainer(index)
        return self._ended(index, trainer, trainer.untrained(), sampler)


def trainers(recipe: Recipe, teacher: Denoiser, data: DataSource, folder: Path, images: int,
             rounds: Sequence[int] | None = None) -> Iterator[RoundTrainer]:  # fmt: skip
    """What trains each of these rounds of the recipe (None: all), on the made-up device."""
    sets = TrajectorySettings(count=16, steps=2, record_size=8)
    options = RunOptions(images, folder=folder, keep_checkpoints=False)
    for index in range(len(recipe.rounds)) if rounds is None else rounds:
        run = MadeUp(recipe, copy.deepcopy(teacher), options, data=data, trajectories=sets)
        run.wanted = index
        yield run.trainer(index)[0]
