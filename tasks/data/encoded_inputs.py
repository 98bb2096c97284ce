"""What stages read of the encode stage: states in the place of images, conditions for a denoiser, the codec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep.data.images import ImageSet, load_split
from fewstep.data.sized import Sized
from fewstep.data.states import StateSet
from fewstep.diffusion.denoiser import Denoiser
from fewstep.families.codec import Codec
from fewstep.families.encoded_set import EncodedSet
from fewstep.families.parts_placement import TEXT_ENCODERS
from fewstep.teachers import inspect_teacher, load_teacher
from fewstep.teachers.pipeline_loading import load_pipeline
from fewstep.util.device import default_device
from tasks.stages.base import Context


def encoded_set(context: Context[Any]) -> EncodedSet:
    """The encode stage's output, for `Context.once`: its table of prompts may be long."""
    return EncodedSet(context.inputs["encode"])


def training_data(context: Context[Any], split: str = "train") -> ImageSet | StateSet | Sized[StateSet]:
    """The samples of a split, of all sizes, as the teacher's states: encoded ones where its states are not the images
    themselves."""
    encoded = context.once(encoded_set)
    return load_split(context.inputs["shard"], split) if encoded.family is None else encoded.sized_states(split)


def encodes_data(context: Context[Any], split: str = "train") -> bool:
    """Whether there are samples of a split as the teacher's states."""
    encoded = context.once(encoded_set)
    if encoded.family is None:
        return len(load_split(context.inputs["shard"], split)) > 0
    return bool(encoded.description.samples.get(split))


def lacks_samples(context: Context[Any]) -> bool:
    """Whether there are prompts alone: nothing to train on that is like the teacher's samples."""
    encoded = context.once(encoded_set)
    return encoded.family is not None and not encoded.description.samples.get("train")


def ready(context: Context[Any], denoiser: Denoiser) -> Denoiser:
    """The denoiser with the conditions of the encoded set, if it has some."""
    return context.once(encoded_set).given_to(denoiser)


def stage_teacher(context: Context[Any]) -> Denoiser:
    """The teacher stage's teacher, on the CPU, with its conditions."""
    return ready(context, load_teacher(context.inputs["teacher"]))


def stage_codec(context: Context[Any]) -> Codec | None:
    """Decodes the teacher's states; None where they are the images. Loads no text encoder and no denoiser."""
    encoded = context.once(encoded_set)
    return None if encoded.family is None else codec_of(context.inputs["teacher"], encoded)


def codec_of(folder: Path, encoded: EncodedSet) -> Codec:
    """The codec of a pipeline's folder, on the device."""
    info = inspect_teacher(folder)
    without = [name for name in info.parts if name.startswith(TEXT_ENCODERS)]
    return Codec(load_pipeline(info, without=without), encoded.family).to(default_device())
