"""Samples of a registered version as one picture."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.util.errors import NonFinite, SettingsError
from tasks.registry.gate.champion_test import student
from tasks.registry.model_registry import Registry, Version

if TYPE_CHECKING:
    import torch

    from fewstep.students.student import Student

_BATCH = 250
PURPOSE = "sample"  # of the noise: sample i of a seed is the same whatever the number of samples


def draw(registry: Registry, version: Version, out: Path, *, count: int, steps: int | None = None,
         label: int | None = None, seed: int = 0) -> int:  # fmt: skip
    """Writes `count` samples to the PNG `out` and returns the number of steps they were drawn with.

    Classes are taken in turn, a column each where that fits, unless `label` names a class. The registered bytes are
    verified first and no code among them is run.

    Raises:
        SettingsError: the class does not exist, or the file is no .png in a folder that exists.
        NonFinite: samples are NaN or infinite.
    """
    out = Path(out)
    if out.suffix.lower() != ".png" or not out.absolute().parent.is_dir():
        raise SettingsError(f"--out {out}: expected the name of a .png file in a folder that exists")
    import torch  # only now: what can be refused without it is

    from fewstep.data.images import to_bytes  # loads torch
    from fewstep.util.image_grid import save, sheet

    model = student(registry, version)
    classes = model.denoiser.num_classes
    if label is not None and label >= classes:
        known = f"its classes are 0 to {classes - 1}" if classes else "it takes no class"
        raise SettingsError(f"--class {label}: {version.name} has no such class; {known}")
    images = []
    for indices in torch.arange(count).split(_BATCH):
        samples = _samples(model, indices, steps, label, seed)
        if not torch.isfinite(samples).all():
            raise NonFinite(f"{version.name}: samples are NaN or infinite", role="student")
        images.append(to_bytes(samples))
    temporary = out.with_name(f".{out.name}.tmp")
    save(sheet(torch.cat(images), _columns(count, classes if label is None else 0)), temporary)
    os.replace(temporary, out)
    return steps or model.sampler.steps


def _samples(model: Student, indices: torch.Tensor, steps: int | None, label: int | None, seed: int) -> torch.Tensor:
    """Samples (N, channels, height, width) number `indices` (N,) of `seed`, float32 on the CPU."""
    import torch  # loads torch

    from fewstep.diffusion.randomness import noise  # loads torch

    device, classes = next(model.denoiser.parameters()).device, model.denoiser.num_classes
    start = noise(seed, PURPOSE, indices, model.denoiser.sample_shape).to(device)
    condition = None
    if classes:
        condition = (indices % classes if label is None else torch.full_like(indices, label)).to(device)
    return model.sample(start, steps=steps, condition=condition, seed=seed, indices=indices.tolist()).float().cpu()


def _columns(count: int, classes: int) -> int:
    """Number of columns near a square; a multiple of the number of classes, so that a class fills whole columns."""
    square = max(1, math.ceil(math.sqrt(count)))
    if 1 < classes <= count and classes <= 2 * square:
        return classes * max(1, round(square / classes))
    return min(square, count)
