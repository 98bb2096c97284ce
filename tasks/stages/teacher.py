"""The teacher stage: trains a small diffusion model, or takes a saved one, and lets it pass only if it samples well."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from fewstep.diffusion.label_groups import require_groups
from fewstep.teachers.inspection import inspect_teacher
from fewstep.util.config import Strict, parse
from fewstep.util.errors import SettingsError, laid_at
from fewstep.util.files import write_atomically
from tasks.config.schema import FineTuning, Settings, TeacherCheck, TeacherTraining
from tasks.stages.base import Context, Stage

# torch is imported in the methods that compute: the graph reads this file

if TYPE_CHECKING:
    from fewstep.diffusion.denoiser import Denoiser
    from fewstep.teachers.sampling_check import TeacherReport

_SHORT_BATCHES = 8
_ANYTHING = {"max_distance_ratio": 1e9, "max_terminal_snr": 1e9}


class TrainedTeacher(TeacherTraining):
    """A teacher that is trained here."""

    source: Literal["train"] = "train"


class GivenTeacher(Strict):
    """A saved teacher, which is copied, trained further where that is asked for, and checked."""

    source: Literal["given"] = "given"
    variant: str | None = None
    finetune: FineTuning | None = Field(default=None, exclude_if=lambda found: found is None)
    check: TeacherCheck


class TeacherStage(Stage[TrainedTeacher | GivenTeacher, "TeacherReport"]):
    """A teacher in a pipeline folder; units: `train`, where it is not taken as it is given, then `check`."""

    name = "teacher"
    output = "data/teacher"
    settings_type = TrainedTeacher
    inputs = ("shard", "encode")
    outside = ("teacher",)
    params = ("seed", "teacher")

    def resolve(self, settings: Settings) -> TrainedTeacher | GivenTeacher:
        teacher = settings.teacher
        if teacher.given:
            return GivenTeacher(check=teacher.check, variant=teacher.variant, finetune=teacher.finetune)
        return TrainedTeacher(**{name: getattr(teacher, name) for name in TeacherTraining.model_fields})

    def parse(self, data: dict[str, Any], source: str) -> TrainedTeacher | GivenTeacher:
        return parse(TrainedTeacher if data.get("source") == "train" else GivenTeacher, data, source)

    def terms(self, settings: TrainedTeacher | GivenTeacher) -> Iterable[str]:
        return ("denoising",) if _training(settings) is not None else ()

    def shortened(self, settings: TrainedTeacher | GivenTeacher) -> TrainedTeacher | GivenTeacher:
        check = settings.check.model_copy(update={**_ANYTHING, "samples": min(settings.check.samples, 64)})
        training = _training(settings)
        if training is None:
            return settings.model_copy(update={"check": check})
        images = {"images": min(training.images, _SHORT_BATCHES * training.batch)}
        less = images if training is settings else {"finetune": training.model_copy(update=images)}
        return settings.model_copy(update={"check": check, **less})

    def check(self, context: Context[TrainedTeacher | GivenTeacher]) -> None:
        """Refuse a given teacher that cannot be loaded, and images or groups that do not fit."""
        from fewstep.data.images import load_split  # loads torch

        if isinstance(context.settings, GivenTeacher):
            info = inspect_teacher(context.outside["teacher"], context.settings.variant)
            if info.recorded:
                return  # the encode stage has held data and teacher to each other
        images = load_split(context.inputs["shard"], "train")
        if len(images) < 2:
            raise SettingsError(f"the train split has {len(images)} images; add images or raise data.split.train")
        if isinstance(context.settings, TrainedTeacher):
            with laid_at("teacher.groups"):
                require_groups(context.settings.groups, images.num_classes, images.num_classes)
            return
        if tuple(info.sample_shape) != tuple(images.shape):
            raise SettingsError(
                f"{info.folder}: the teacher makes images of shape {tuple(info.sample_shape)}, the data are "
                f"{images.shape}",
                hint="set data.size and data.channels, or take another teacher",
            )
        if info.num_classes and images.num_classes > info.num_classes:
            raise SettingsError(f"{info.folder}: {info.num_classes} classes, the data have {images.num_classes}")

    def units(self, context: Context[TrainedTeacher | GivenTeacher]) -> list[str]:
        if (context.scratch / "checked.json").is_file() and any(context.out.iterdir()):
            return []
        return ["check"] if _training(context.settings) is None else ["train", "check"]

    def run_unit(self, context: Context[TrainedTeacher | GivenTeacher], unit: str) -> None:
        """Train to the end from the newest checkpoint; or export the teacher and check it."""
        if unit == "train":
            begun = time.monotonic()
            _trained(context, report=True)
            context.record_cost({"training_seconds": round(time.monotonic() - begun, 3)})
            return
        from fewstep.teachers import load_teacher  # loads torch
        from fewstep.teachers.sampling_check import check_teacher
        from fewstep.util.device import default_device
        from tasks.data.encoded_inputs import encodes_data, ready, training_data

        export = context.scratch / "export"
        shutil.rmtree(export, ignore_errors=True)
        export.mkdir()
        _export(context, export)
        saved = ready(context, load_teacher(export)).to(default_device())
        data = training_data(context) if encodes_data(context) else None
        report = check_teacher(saved, data, seed=context.seed, **context.settings.check.model_dump())
        shutil.rmtree(context.out, ignore_errors=True)
        os.rename(export, context.out)
        write_atomically(context.scratch / "checked.json", report.model_dump_json())

    def parts(self, settings: TrainedTeacher | GivenTeacher, unit: str | None = None) -> int:
        training = _training(settings)
        return training.parts if training is not None and unit in (None, "train") else 1

    def join(self, context: Context[TrainedTeacher | GivenTeacher], unit: str) -> None:
        _trained(context)

    def finish(self, context: Context[TrainedTeacher | GivenTeacher]) -> TeacherReport:
        from fewstep.teachers.sampling_check import TeacherReport  # loads diffusers

        return parse(TeacherReport, json.loads((context.scratch / "checked.json").read_bytes()), "checked.json")


def _export(context: Context[TrainedTeacher | GivenTeacher], folder: Path) -> None:
    """The teacher as a folder of its own: trained, or the given one with what was recorded of it."""
    from fewstep.teachers import save_teacher  # loads torch
    from fewstep.teachers.saving import link_pipeline

    given = isinstance(context.settings, GivenTeacher)
    trained = _training(context.settings) is not None
    teacher = _trained(context) if trained else _given(context)
    if given and teacher.family is not None:
        info = inspect_teacher(context.outside["teacher"], context.settings.variant)
        link_pipeline(info, folder, teacher, trained)
    else:
        save_teacher(teacher, folder)


def _training(settings: TrainedTeacher | GivenTeacher) -> TrainedTeacher | FineTuning | None:
    """How the teacher is trained here; None for one that is taken as it is."""
    return settings.finetune if isinstance(settings, GivenTeacher) else settings


def _given(context: Context[GivenTeacher]) -> Denoiser:
    from fewstep.families.encoded_set import EncodedSet  # loads torch
    from fewstep.teachers import load_teacher

    family = EncodedSet(context.inputs["encode"]).family
    return load_teacher(context.outside["teacher"], context.settings.variant, family=family)


def _trained(context: Context[TrainedTeacher | GivenTeacher], report: bool = False) -> Denoiser:
    """The trained teacher; a training that was finished before is read from its last checkpoint."""
    from fewstep.diffusion.randomness import derive  # loads torch
    from fewstep.training import RunOptions
    from fewstep.training.teacher_training import teacher_recipe, train_further, train_teacher
    from fewstep.util.device import default_device
    from tasks.data.encoded_inputs import ready, training_data

    def on_progress(done: int, total: int, figures: dict[str, float]) -> None:
        context.progress(done, total, metrics=figures, step=done)

    settings, training = context.settings, _training(context.settings)
    options = RunOptions(
        images=training.images,
        seed=context.seed if isinstance(settings, TrainedTeacher) else derive(context.seed, "finetune"),
        folder=context.scratch / "checkpoints",
        device=default_device(),
        gradient_checkpointing=context.gradient_checkpointing,
        averages_apart=context.ema_device == "cpu",
        shards=context.parallel == "shard",
        reshard=context.reshard,
        checkpoint_images=context.checkpoint_images,
        warn=context.warn,
    )
    data, told = training_data(context), on_progress if report else None
    common = (training.lr, training.images, training.batch, training.parts, training.ema)
    if isinstance(settings, GivenTeacher):
        recipe = teacher_recipe(*common, training.dropout, precision=training.precision)
        return train_further(recipe, ready(context, _given(context)), data, options, told)
    return train_teacher(teacher_recipe(*common, training.class_dropout), data, options, channels=settings.channels,
                         layers=settings.layers, groups=settings.groups, on_progress=told)  # fmt: skip
