"""Samples of a registered version as one picture."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.util.errors import NonFinite, SettingsError
from tasks.registry.model_registry import Registry, Version

if TYPE_CHECKING:
    import torch

    from fewstep.students.student import Student

_BATCH = 250
PURPOSE = "sample"  # of the noise: sample i of a seed is the same whatever the number of samples


def draw(registry: Registry, version: Version, out: Path, *, count: int, steps: int | None = None,
         label: int | None = None, prompts: Sequence[str] = (), seed: int = 0) -> int:  # fmt: skip
    """Writes `count` samples to the PNG `out` and returns the number of steps they were drawn with.

    Classes, or prompts, are taken in turn, a column each where that fits, unless `label` names a class; of videos every
    frame is a picture. The registered bytes are verified first and no code among them is run.

    Raises:
        SettingsError: the class does not exist, a model of texts has no prompt or another has one, the samples are no
            pictures, or the file is no .png in a folder that exists.
        NonFinite: samples are NaN or infinite.
    """
    out = Path(out)
    if out.suffix.lower() != ".png" or not out.absolute().parent.is_dir():
        raise SettingsError(f"--out {out}: expected the name of a .png file in a folder that exists")
    import torch  # only now: what can be refused without it is

    from fewstep.data.images import to_bytes  # loads torch
    from fewstep.students.export import load_student
    from fewstep.util.image_grid import save, sheet

    folder = registry.pipeline(version)
    model = load_student(folder)
    decode = _of_prompts(folder, model, prompts, version.name)
    classes = model.denoiser.num_classes
    if label is not None and (prompts or label >= classes):
        known = f"its classes are 0 to {classes - 1}" if classes and not prompts else "it takes no class"
        raise SettingsError(f"--class {label}: {version.name} has no such class; {known}")
    images = []
    for indices in torch.arange(count).split(_BATCH):
        samples = decode(_samples(model, indices, steps, label, seed)).cpu()
        if samples.ndim == 3:
            raise SettingsError(f"{version.name} makes sound, which has no picture",
                                hint=f"load {folder} with diffusers and play what it returns")  # fmt: skip
        if not torch.isfinite(samples).all():
            raise NonFinite(f"{version.name}: samples are NaN or infinite", role="student")
        images.append(to_bytes(samples.flatten(0, -4)))
    temporary = out.with_name(f".{out.name}.tmp")
    save(sheet(torch.cat(images), _columns(count, classes if label is None else 0)), temporary)
    os.replace(temporary, out)
    return steps or model.sampler.steps


def _of_prompts(
    folder: Path, model: Student, prompts: Sequence[str], name: str
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Gives the student the conditions of the prompts, in turn; returns what makes samples of its states."""
    from fewstep.families.codec import Codec  # loads torch
    from fewstep.families.family import table_of
    from fewstep.teachers.inspection import inspect_teacher
    from fewstep.teachers.pipeline_loading import load_pipeline

    family = model.denoiser.family
    textual = family is not None and bool(family.fields)
    if textual and not prompts:
        raise SettingsError(f"{name} is conditional on texts", hint='say what to draw: --prompt "a red apple"')
    if prompts and not textual:
        raise SettingsError(f"{name} takes no prompts", hint="leave --prompt out")
    if family is None:
        return lambda states: states
    pipe = load_pipeline(inspect_teacher(folder))
    if textual:
        model.denoiser.take(table_of(pipe, family, list(prompts)))
    return Codec(pipe, family).decode


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
