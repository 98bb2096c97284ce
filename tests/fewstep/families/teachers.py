"""Denoisers of the tiny pipelines, each loaded from its folder once, with a table of a few prompts."""

from __future__ import annotations

import copy
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from fewstep.diffusion.denoiser import Denoiser
from fewstep.families.family import table_of
from fewstep.teachers import load_teacher
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


def batch(denoiser: Denoiser, count: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """States (count, …), times and conditions."""
    x = torch.randn(count, *denoiser.sample_shape, generator=torch.Generator().manual_seed(0))
    process = denoiser.process
    t = process.t_min + (process.t_max - process.t_min) * torch.linspace(0.2, 0.8, count, dtype=torch.float64)
    return x, t, torch.arange(count)
