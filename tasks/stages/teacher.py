"""The teacher stage: trains a small diffusion model, or takes a saved one, and lets it pass only if it samples well."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fewstep.diffusion.label_groups import require_groups
from fewstep.teachers.inspection import inspect_teacher
from fewstep.util.config import Strict, parse
from fewstep.util.errors import SettingsError, laid_at
from fewstep.util.files import write_atomically
from tasks.config.schema import Settings, TeacherCheck, TeacherTraining
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
    """A saved teacher, which is copied and checked."""

    source: Literal["given"] = "given"
    variant: str | None = None
    check: TeacherCheck


class TeacherStage(Stage[TrainedTeacher | GivenTeacher, "TeacherReport"]):
    """A teacher in a pipeline folder; units: `train`, where it is not given, then `check`."""

    name = "teacher"
    output = "data/teacher"
    settings_type = TrainedTeacher
    inputs = ("shard", "encode")
    outside = ("teacher",)
    params = ("seed", "teacher")

    def resolve(self, settings: Settings) -> TrainedTeacher | GivenTeacher:
        teacher = settings.teacher
        if teacher.given:
            return GivenTeacher(check=teacher.check, variant=teacher.variant)
        return TrainedTeacher(**{name: getattr(teacher, name) for name in TeacherTraining.model_fields})

    def parse(self, data: dict[str, Any], source: str) -> TrainedTeacher | GivenTeacher:
        return parse(TrainedTeacher if data.get("source") == "train" else GivenTeacher, data, source)

    def terms(self, settings: TrainedTeacher | GivenTeacher) -> Iterable[str]:
        return ("denoising",) if isinstance(settings, TrainedTeacher) else ()

    def shortened(self, settings: TrainedTeacher | GivenTeacher) -> TrainedTeacher | GivenTeacher:
        check = settings.check.model_copy(update={**_ANYTHING, "samples": min(settings.check.samples, 64)})
        short = settings.model_copy(update={"check": check})
        if isinstance(short, GivenTeacher):
            return short
        return short.model_copy(update={"images": min(short.images, _SHORT_BATCHES * short.batch)})

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
        return ["train", "check"] if isinstance(context.settings, TrainedTeacher) else ["check"]

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
        return settings.parts if isinstance(settings, TrainedTeacher) and unit in (None, "train") else 1

    def join(self, context: Context[TrainedTeacher], unit: str) -> None:
        _trained(context)

    def finish(self, context: Context[TrainedTeacher | GivenTeacher]) -> TeacherReport:
        from fewstep.teachers.sampling_check import TeacherReport  # loads diffusers

        return parse(TeacherReport, json.loads((context.scratch / "checked.json").read_bytes()), "checked.json")


def _export(context: Context[TrainedTeacher | GivenTeacher], folder: Path) -> None:
    """The teacher as a folder of its own: trained, or the given one with what was recorded of it."""
    from fewstep.families.encoded_set import EncodedSet  # loads torch
    from fewstep.teachers import load_teacher, save_teacher
    from fewstep.teachers.saving import link_pipeline

    if isinstance(context.settings, TrainedTeacher):
        save_teacher(_trained(context), folder)
        return
    given, variant = context.outside["teacher"], context.settings.variant
    family = EncodedSet(context.inputs["encode"]).family
    teacher = load_teacher(given, variant, family=family)
    if family is None:
        save_teacher(teacher, folder)
    else:
        link_pipeline(inspect_teacher(given, variant), folder, teacher)


def _trained(context: Context[TrainedTeacher], report: bool = False) -> Denoiser:
    """The trained teacher; a training that was finished before is read from its last checkpoint."""
    from fewstep.data.images import load_split  # loads torch
    from fewstep.training import RunOptions
    from fewstep.training.teacher_training import teacher_recipe, train_teacher
    from fewstep.util.device import default_device

    def on_progress(done: int, total: int, figures: dict[str, float]) -> None:
        context.progress(done, total, metrics=figures, step=done)

    settings = context.settings
    return train_teacher(
        teacher_recipe(settings.lr, settings.images, settings.batch, settings.parts, settings.ema,
                       settings.class_dropout),
        load_split(context.inputs["shard"], "train"),
        RunOptions(
            images=settings.images,
            seed=context.seed,
            folder=context.scratch / "checkpoints",
            device=default_device(),
            shards=context.parallel == "shard",
            reshard=context.reshard,
            checkpoint_images=context.checkpoint_images,
            warn=context.warn,
        ),
        channels=settings.channels,
        layers=settings.layers,
        groups=settings.groups,
        on_progress=on_progress if report else None,
    )
