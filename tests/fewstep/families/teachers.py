"""Denoisers of the tiny pipelines, each loaded from its folder once, with a table of a few prompts."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from fewstep.data.sized import Sized
from fewstep.diffusion.conditions import TensorTable
from fewstep.diffusion.denoiser import Denoiser
from fewstep.families.recorded_conditions import record_conditions, record_nulls, table_of
from fewstep.families.recorded_family import record_family
from fewstep.teachers import inspect_teacher, load_teacher
from fewstep.teachers.pipeline_loading import load_pipeline
from fewstep.training.step.batches import TensorData
from tests.fewstep.families.pipelines import KINDS, LINES


def teacher(kind: str) -> Denoiser:
    """The teacher of this kind: a copy, which a test may change."""
    return copy.deepcopy(_loaded(kind))


@cache
def _loaded(kind: str) -> Denoiser:
    with tempfile.TemporaryDirectory() as folder:
        pipe = KINDS[kind].save(Path(folder))
        found = load_teacher(folder, arguments=KINDS[kind].arguments)
    if KINDS[kind].conditions == "prompt":
        found.take(table_of(pipe, found.family, LINES[:4]))
    return found


PIXELS = [(32, 32), (32, 48), (48, 32)]
"""Sizes (height, width) of `sized_teacher`'s samples; the last two have as many tokens."""


@cache
def _loaded_sized(kind: str) -> Denoiser:
    with tempfile.TemporaryDirectory() as folder:
        KINDS[kind].save(Path(folder))
        pipe = load_pipeline(inspect_teacher(folder))
        family = record_family(pipe, KINDS[kind].arguments, PIXELS)
        found = load_teacher(folder, family=family)
    asked = {"prompt": LINES[:4]}
    rows = [record_conditions(pipe, family.at(k), asked, 4) for k in range(len(PIXELS))]
    nulls = [record_nulls(pipe, family.at(k), asked, 4) for k in range(len(PIXELS))]
    guided, sizes = nulls[0] is not None, torch.arange(len(PIXELS)).repeat_interleave(4)
    tensors = {name: torch.cat([part[name] for part in rows + nulls * guided]) for name in rows[0]}
    own = torch.arange(4 * len(PIXELS))
    return found.take(TensorTable(tensors, own + len(own) * guided, None, sizes))


def sized_teacher(kind: str) -> Denoiser:
    """A teacher of this kind for samples of `PIXELS`, a copy; its prompts are rows 4 k … 4 k + 3 at size k."""
    return copy.deepcopy(_loaded_sized(kind))


def sized_data(denoiser: Denoiser, counts: Sequence[int] = (8, 8, 8)) -> Sized:
    """States of every size, with its prompts in turn."""
    def of_size(k: int, count: int) -> TensorData:
        random = torch.Generator().manual_seed(k)
        return TensorData(torch.randn(count, *denoiser.sized(k).sample_shape, generator=random),
                          torch.arange(count) % 4 + 4 * k)  # fmt: skip

    return Sized([of_size(k, count) for k, count in enumerate(counts)])


def batch(denoiser: Denoiser, count: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """States (count, …), times and conditions."""
    x = torch.randn(count, *denoiser.sample_shape, generator=torch.Generator().manual_seed(0))
    process = denoiser.process
    t = process.t_min + (process.t_max - process.t_min) * torch.linspace(0.2, 0.8, count, dtype=torch.float64)
    return x, t, torch.arange(count)
