"""Samples of a registered version as one file: a picture, a video or a sound."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.util.errors import NonFinite, SettingsError
from fewstep.util.files import write_atomically
from fewstep.util.pixel_sizes import size_text
from tasks.registry.model_registry import Registry, Version

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from fewstep.families.codec import Codec
    from fewstep.families.image_arguments import ImageArguments
    from fewstep.students.student import Student

_BATCH = 250
_PLAYED = {".gif": "videos", ".wav": "sound"}
PURPOSE = "sample"  # of the noise: sample i of a seed is the same whatever the number of samples


def draw(registry: Registry, version: Version, out: Path, *, count: int, steps: int | None = None,
         label: int | None = None, prompts: Sequence[str] = (), images: Sequence[Path] = (), masks: Sequence[Path] = (),
         size: str | None = None, seed: int = 0) -> int:  # fmt: skip
    """Writes `count` samples to the file `out` and returns the number of steps they were drawn with.

    Classes, or prompts with images and masks, are taken in turn, a column each where that fits, unless `label` names a
    class. A PNG shows images, every frame of videos, a row each, and the spectrograms of sounds; a GIF plays videos
    side by side, a WAV sounds one after the other. The registered bytes are verified first and no code among them is
    run. size: WIDTHxHEIGHT, one of those that the version was trained for; None: that at which it was judged.

    As many are drawn and decoded together as `at_once` says, on a GPU where there is one.

    Raises:
        SettingsError: the class or the size does not exist; prompts, images or masks are missing or not asked for; an
            image cannot be read; or the file is none that the samples can be written to, in a folder that exists.
        NonFinite: samples are NaN or infinite.
    """
    out = Path(out)
    if out.suffix.lower() not in (".png", *_PLAYED) or not out.absolute().parent.is_dir():
        raise SettingsError(f"--out {out}: expected the name of a .png file (of videos also .gif, of sound .wav) in a "
                            "folder that exists")
    import torch  # only now: what can be refused without it is

    from fewstep.data.medium import medium_of, to_stored  # loads torch
    from fewstep.students.export import load_student
    from fewstep.util.at_once import at_once
    from fewstep.util.device import default_device

    folder = registry.pipeline(version)
    model = load_student(folder)
    if size is not None:
        model = _at_size(model, size, version.name)
    device = default_device()
    codec = _of_prompts(folder, model, prompts, {"--image": images, "--mask": masks}, version.name, device)
    model.denoiser.to(device)
    classes = model.denoiser.num_classes
    if label is not None and (prompts or label >= classes):
        known = f"its classes are 0 to {classes - 1}" if classes and not prompts else "it takes no class"
        raise SettingsError(f"--class {label}: {version.name} has no such class; {known}")
    shape = model.denoiser.sample_shape if codec is None else codec.sample_shape
    medium = medium_of(shape)
    if _PLAYED.get(out.suffix.lower(), medium) != medium:
        raise SettingsError(f"--out {out}: {version.name} makes {medium}, which are no {out.suffix} file")
    parts = []
    for indices in torch.arange(count).split(min(_BATCH, at_once(shape))):
        states = _samples(model, indices, steps, label, seed)
        samples = states.cpu() if codec is None else codec.decode(states)
        if not torch.isfinite(samples).all():
            raise NonFinite(f"{version.name}: samples are NaN or infinite", role="student")
        parts.append(to_stored(samples))
    content = _file(torch.cat(parts), out.suffix.lower(), 0.0 if codec is None else codec.rate,
                    _columns(count, classes if label is None else 0))  # fmt: skip
    write_atomically(out, content)
    return steps or model.sampler.steps


def _file(stored: torch.Tensor, suffix: str, rate: float, columns: int) -> bytes:
    """The bytes of a file of this kind with samples (n, …) as they are stored."""
    import numpy as np  # as torch

    from fewstep.data.medium import SOUND, VIDEOS, medium_of  # loads torch
    from fewstep.metrics.portraits import portraits
    from fewstep.util.image_grid import save, sheet
    from fewstep.util.playable import gif, wav

    medium = medium_of(stored.shape[1:])
    if suffix == ".wav":
        return wav(np.concatenate(list(stored.numpy()), axis=-1), rate)
    if suffix == ".gif":
        frames = np.stack([np.asarray(sheet(frame, columns)) for frame in stored.unbind(1)]).transpose(0, 3, 1, 2)
        return gif(frames, rate, max(frames.shape))
    if medium == VIDEOS:
        stored, columns = stored.flatten(0, 1), stored.shape[1]
    elif medium == SOUND:
        stored = portraits(stored, rate)
    buffer = io.BytesIO()
    save(sheet(stored, columns), buffer)
    return buffer.getvalue()


def _at_size(model: Student, size: str, name: str) -> Student:
    """The student for samples of WIDTHxHEIGHT."""
    from fewstep.students.student import Student  # loads torch

    family = model.denoiser.family
    known = [size_text(pixels) for pixels in (family.pixels if family is not None else ())]
    if size not in known:
        which = f"it was trained for {', '.join(known)}" if known else "it makes samples of one size"
        raise SettingsError(f"--size {size}: {name} has no such size; {which}")
    return Student(model.denoiser.sized(known.index(size)), model.sampler)


def _of_prompts(folder: Path, model: Student, prompts: Sequence[str], files: Mapping[str, Sequence[Path]],
                name: str, device: torch.device) -> Codec | None:  # fmt: skip
    """Gives the student the conditions of the prompts and images, in turn; returns what makes samples of its states,
    None where they are the samples. files: of images, by the option that names them. device: where the text encoders
    are first, and what decodes then."""
    from fewstep.families.codec import Codec  # loads torch
    from fewstep.families.parts_placement import OF_IMAGES, TEXT_ENCODERS, place
    from fewstep.families.recorded_conditions import table_of
    from fewstep.teachers.inspection import inspect_teacher
    from fewstep.teachers.pipeline_loading import load_pipeline

    family = model.denoiser.family
    family = family and family.at(model.denoiser.size)
    textual = family is not None and bool(family.fields)
    if textual and not prompts:
        raise SettingsError(f"{name} is conditional on texts", hint='say what to draw: --prompt "a red apple"')
    if prompts and not textual:
        raise SettingsError(f"{name} takes no prompts", hint="leave --prompt out")
    given = [(option, path) for option, paths in files.items() for path in paths]
    if given and (family is None or family.images is None):
        raise SettingsError(f"{name} takes no images", hint=f"leave {given[0][0]} out")
    if family is None:
        return None
    pipe = load_pipeline(inspect_teacher(folder))
    place(pipe, device, TEXT_ENCODERS, *(() if family.images is None else OF_IMAGES))
    if textual and family.images is None:
        model.denoiser.take(table_of(pipe, family, list(prompts)))
    elif textual:
        pictures = _pictures(family.images, files, name)
        count = max(len(prompts), *map(len, pictures.values()))
        texts = [prompts[k % len(prompts)] for k in range(count)]
        shown = {key: [some[k % len(some)] for k in range(count)] for key, some in pictures.items()}
        model.denoiser.take(table_of(pipe, family, texts, images=shown))
    return Codec(pipe, family).to(device)


def _pictures(wanted: ImageArguments, files: Mapping[str, Sequence[Path]], name: str) -> dict[str, list[Image.Image]]:
    """The images by argument of the model's call."""
    from fewstep.families.image_arguments import MASK
    from tasks.data.image_conditions import open_image  # loads torch

    found: dict[str, list[Image.Image]] = {}
    for argument in wanted.names:
        option, mode = ("--mask", "L") if MASK in argument else ("--image", "RGB")
        if not files[option]:
            raise SettingsError(f"{name} is given {argument} beside a text", hint=f"{option} FILE")
        found[argument] = [open_image(Path(path), wanted.size, mode) for path in files[option]]
    if files["--mask"] and not any(MASK in argument for argument in wanted.names):
        raise SettingsError(f"{name} takes no mask", hint="leave --mask out")
    return found


def _samples(model: Student, indices: torch.Tensor, steps: int | None, label: int | None, seed: int) -> torch.Tensor:
    """States (N, …) number `indices` (N,) of `seed`, float32 on the student's device."""
    import torch  # loads torch

    from fewstep.diffusion.randomness import noise  # loads torch

    device, classes = next(model.denoiser.parameters()).device, model.denoiser.num_classes
    start = noise(seed, PURPOSE, indices, model.denoiser.sample_shape).to(device)
    condition = None
    if classes:
        condition = (indices % classes if label is None else torch.full_like(indices, label)).to(device)
    return model.sample(start, steps=steps, condition=condition, seed=seed, indices=indices.tolist()).float()


def _columns(count: int, classes: int) -> int:
    """Number of columns near a square; a multiple of the number of classes, so that a class fills whole columns."""
    square = max(1, math.ceil(math.sqrt(count)))
    if 1 < classes <= count and classes <= 2 * square:
        return classes * max(1, round(square / classes))
    return min(square, count)
