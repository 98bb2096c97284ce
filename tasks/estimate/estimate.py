"""What the run of some settings would take, found out on networks without values: nothing is trained or written."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import torch

from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.processes import VariancePreserving
from fewstep.families.encoded_set import DESCRIPTION, EncodedSet
from fewstep.families.family import Family
from fewstep.families.recorded_family import record_family
from fewstep.networks.unet_mlp import new_unet
from fewstep.recipes import Recipe
from fewstep.teachers.inspection import TeacherInfo, inspect_teacher
from fewstep.teachers.loading import require_whole, teacher_of
from fewstep.teachers.pipeline_loading import load_pipeline, probe_network
from fewstep.training.distributed import World
from fewstep.training.memory import RoundMemory
from fewstep.training.moments_8bit import torchao_is_here
from fewstep.training.rehearsal.rounds import Machine, rehearse
from fewstep.training.rehearsal.stand_ins import Conditions
from fewstep.util.errors import SettingsError
from fewstep.util.pixel_sizes import size_of_text
from fewstep.util.plain_data import from_yaml
from fewstep.util.quiet_libraries import quiet_libraries
from tasks.config.chosen_recipe import chosen_recipe
from tasks.config.outside import outside_paths, with_recipe_below
from tasks.config.schema import Distill, Settings
from tasks.data import digits_facts
from tasks.data.given_prompts import read_given_prompts
from tasks.data.image_folder import list_images
from tasks.estimate.run_estimate import Device, RunEstimate, Saving, SetSize, total_of

_SAVINGS = ("gradient_checkpointing=true", "ema_device=cpu", "guided_calls=sequential", "frozen=bfloat16")
"""Settings of `distill` that take less memory, first those that change no bit."""


def estimate(root: Path, settings: Settings, device: Device, limit: int | None = None,
             devices: int = 1) -> RunEstimate:  # fmt: skip
    """What the run of `settings` in the checkout `root` would take on each of so many devices with `limit` bytes.

    Raises SettingsError for settings that do not hold, and where the sizes of a teacher that is to be trained are not
    known yet.
    """
    settings = with_recipe_below(settings, root)
    source = _Teacher(root, settings)
    recipe, parallel = chosen_recipe(settings.distill), settings.compute.parallel
    if not World(0, devices).shares(recipe.training.parts):
        raise SettingsError(f"{devices} devices cannot share {recipe.training.parts} parts of a batch; each takes 1, "
                            "2, 4, … of them", hint=f"set distill.parts: {devices}")
    rounds = _rounds(settings.distill, source, device, settings, devices)
    found = RunEstimate(
        recipe=recipe.name, teacher=source.name, device=device, devices=devices, parallel=parallel,
        batch=recipe.training.batch, precision=recipe.training.precision, rounds=rounds, limit=limit,
        sets=tuple(_sets(root, settings, source, recipe)),
    )  # fmt: skip
    if found.fits:
        return found
    return found.model_copy(update={"savings": tuple(_savings(settings, source, device, limit, devices))})


def _savings(settings: Settings, source: _Teacher, device: Device, limit: int, devices: int) -> list[Saving]:
    """Settings that take less, one after the other, until the run fits; without those that save nothing."""
    found, distill = [], settings.distill
    recipe = chosen_recipe(distill)
    training, compact = recipe.training, device == "gpu" and recipe.optimiser.kind == "adamw" and torchao_is_here()
    together = training.batch // (training.accumulate * training.parts)     # samples in the network at a time
    shares = [share for share in (2, 4, 8, 16, 32, 64, 128) if together % share == 0]
    less = ["moments=8bit"] if compact else []
    tried = [*_SAVINGS, *less, *(f"accumulate={training.accumulate * share}" for share in shares)]
    least = total_of(_rounds(distill, source, device, settings, devices), device, settings.compute.parallel)
    for assignment in tried:
        changed = _set(distill, assignment, device)
        total = total_of(_rounds(changed, source, device, settings, devices), device, settings.compute.parallel)
        if total >= least:
            continue
        names = {name for name in Distill.model_fields if getattr(changed, name) != getattr(distill, name)}
        found.append(Saving(sets=tuple(f"distill.{name}={_text(getattr(changed, name))}" for name in sorted(names)),
                            total=total))  # fmt: skip
        distill, least = changed, total
        if total <= limit:
            break
    return found


def _set(distill: Distill, assignment: str, device: Device) -> Distill:
    name, _, value = assignment.partition("=")
    data, precision = distill.model_dump() | {name: from_yaml(value)}, chosen_recipe(distill).training.precision
    if name == "frozen" and precision != "bfloat16" and (device == "cpu" or precision != "auto"):
        data["precision"] = "bfloat16"
    return Distill.model_validate(data)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _rounds(distill: Distill, source: _Teacher, device: Device, settings: Settings,
            devices: int) -> tuple[RoundMemory, ...]:  # fmt: skip
    machine = Machine(device == "gpu", distill.gradient_checkpointing, distill.ema_device == "cpu", devices)
    states = settings.trajectories.steps
    return tuple(rehearse(chosen_recipe(distill), source.fresh(), machine, states))


class _Teacher:
    """The teacher of some settings, without weights.

    Attributes:
        name: its folder, or what it is. family: as recorded, of a pipeline with more parts than a denoiser.
    """

    def __init__(self, root: Path, settings: Settings):
        given = outside_paths(settings, root)["teacher"]
        self.family: Family | None = None
        if given is None:
            self.name, self._denoiser = "trained here", _to_be_trained(root, settings)
            return
        info = inspect_teacher(given, settings.teacher.variant)
        require_whole(info)
        self.name = str(given)
        self.family = _family(root, info, settings)
        self._denoiser = teacher_of(info, probe_network(info.folder / info.part, info.network), self.family)
        self.family = self._denoiser.family

    def fresh(self) -> Denoiser:
        """A denoiser that a rehearsal may change."""
        denoiser = copy.deepcopy(self._denoiser)
        if self.family is not None and self.family.fields:
            denoiser.take(Conditions(self.family.fields, self.family.guidance is not None))
        return denoiser

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one state."""
        return tuple(self._denoiser.sample_shape)


def _family(root: Path, info: TeacherInfo, settings: Settings) -> Family | None:
    """As the encode stage recorded it under these settings, else as a call of the pipeline tells it now; of several
    sizes at the largest."""
    if not info.recorded or info.description is not None:
        return None
    if settings.data.sizes is not None:
        with quiet_libraries():
            sizes = list(map(size_of_text, settings.data.sizes))
            family = record_family(load_pipeline(info), settings.encode.of_call, sizes)
        return max(map(family.at, range(len(family.sizes) + 1)), key=lambda one: math.prod(one.state))
    encoded = root / "data" / "encoded"
    if (encoded / DESCRIPTION).is_file():
        family = EncodedSet(encoded).family
        if family is not None and family.pipeline == info.pipeline and family.arguments == settings.encode.of_call:
            return family
    with quiet_libraries():
        return record_family(load_pipeline(info), settings.encode.of_call)


def _to_be_trained(root: Path, settings: Settings) -> Denoiser:
    """The UNet that the teacher stage would train."""
    shape, classes = digits_facts.SHAPE, len(digits_facts.CLASSES)
    folder = outside_paths(settings, root)["images"]
    if folder is not None:
        if settings.data.size is None or settings.data.channels is None:
            raise SettingsError("the size of the images is found as they are read, and is not known yet",
                                hint="set data.size and data.channels")  # fmt: skip
        shape = (settings.data.channels, settings.data.size, settings.data.size)
        classes = len(list_images(folder).classes)
    teacher = settings.teacher
    network = new_unet(shape[-1], shape[0], classes, teacher.channels, teacher.layers, groups=len(teacher.groups))
    return Denoiser(network, VariancePreserving.cosine(), "v_prediction", shape, classes, classes or None,
                    groups=teacher.groups)  # fmt: skip


def _sets(root: Path, settings: Settings, source: _Teacher, recipe: Recipe) -> list[SetSize]:
    """The sets on disk that the run would make."""
    state, found, paths = math.prod(source.shape), [], outside_paths(settings, root)
    needs, images = recipe.rounds[0].needs, 0
    if source.family is not None:
        width = _itemsize(settings.encode.dtype)
        images = 0 if paths["images"] is None else len(list_images(paths["images"]).items)
        if source.family.fields:
            texts = images if paths["prompts"] is None else images + len(read_given_prompts(paths["prompts"]).entries)
            each = sum(math.prod(one.shape) * _width(one.dtype, width) for one in source.family.fields.values())
            nulls = texts if source.family.images is not None else 1    # images stand beside no text too
            rows = texts + nulls * (source.family.guidance is not None)
            found.append(SetSize(what="texts, encoded", count=rows, of_each=each))
        if images:
            found.append(SetSize(what="images, as states", count=images, of_each=state * width))
    paired = needs.pairs or needs.states
    if paired or (recipe.needs.data and source.family is not None and not images):
        chosen = settings.trajectories.keep if paired else ()
        kept = needs.states if chosen is None else chosen
        states = settings.trajectories.steps if kept == "all" else len(kept or ())
        each = state * (1 + states) * _itemsize(settings.trajectories.dtype)
        found.append(SetSize(what="trajectories of the teacher", count=settings.trajectories.count, of_each=each))
    return found


def _itemsize(dtype: str) -> int:
    kind: torch.dtype = getattr(torch, dtype)
    return kind.itemsize


def _width(dtype: str, floating: int) -> int:
    kind: torch.dtype = getattr(torch, dtype)
    return floating if kind.is_floating_point else kind.itemsize
