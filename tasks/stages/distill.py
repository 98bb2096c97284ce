"""The distill stage: a recipe's rounds, one after the other, from the teacher to a student folder."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import model_serializer

from fewstep.recipes import Overrides, Recipe, check_needs, parse_recipe
from fewstep.recipes.published import Preset
from fewstep.recipes.recipe import DESCRIBES
from fewstep.students.export_form import Form, require_form
from fewstep.teachers.inspection import TeacherInfo, inspect_teacher
from fewstep.trajectories.trajectory_settings import TrajectorySettings
from fewstep.util.config import Strict, parse
from fewstep.util.errors import SettingsError, laid_at
from fewstep.util.files import write_atomically
from tasks.config.advice import rate_of_small_networks
from tasks.config.chosen_recipe import chosen_recipe, overrides_of
from tasks.config.schema import Settings
from tasks.stages.base import Context, Stage

# torch is imported in the methods that compute: the graph reads this file

if TYPE_CHECKING:
    from fewstep.training import Distillation
    from fewstep.training.step.batches import DataSource

_SHORT_BATCHES = 8      # of each round, at the least


class DistillSettings(Overrides):
    """The recipe with the overrides of params.yaml in it, without what only describes it; and those overrides."""

    recipe: Recipe
    images: int
    export: Form = "pipeline"
    preset: Preset = "small"
    gradient_checkpointing: bool = False
    """Where it changes bits; elsewhere it is no part of what is made."""

    @model_serializer(mode="wrap")
    def _without_the_default(self, serialise) -> dict:
        """Students that leave and are trained as they always did keep their key."""
        usual = {"export": "pipeline", "preset": "small", "gradient_checkpointing": False}
        return {name: value for name, value in serialise(self).items() if name not in usual or usual[name] != value}


class RoundResult(Strict):
    """A finished round: training images, turns of each role, SHA-256 of the student's weights."""

    round: str
    images: int
    turns: dict[str, int]
    weights: str


class DistillResult(Strict):
    """The student: its recipe, steps, kind of sampler, number of weights, and its rounds."""

    recipe: str
    steps: int
    sampler: str
    parameters: int
    rounds: tuple[RoundResult, ...]


class DistillStage(Stage[DistillSettings, DistillResult]):
    """A student in a pipeline folder; a unit is a round."""

    name = "distill"
    output = "data/student"
    settings_type = DistillSettings
    inputs = ("shard", "encode", "teacher", "trajectories")
    outside = ("recipe",)
    params = ("seed", "distill")

    def resolve(self, settings: Settings) -> DistillSettings:
        distill, recipe = settings.distill, chosen_recipe(settings.distill)
        preset: Preset = distill.preset if recipe.published.sets else "small"  # as it is, where the paper sets nothing
        plain = parse_recipe(recipe.model_dump(mode="json", exclude=DESCRIBES), recipe.name)
        forwards = any(own.differentiates_forwards for own in recipe.rounds)
        return DistillSettings(**overrides_of(distill).model_dump(), recipe=plain, images=distill.images,
                               export=distill.export, preset=preset,
                               gradient_checkpointing=distill.gradient_checkpointing and forwards)  # fmt: skip

    def terms(self, settings: DistillSettings) -> Iterable[str]:
        return sorted({term.term for own in settings.recipe.rounds for term in own.terms})

    def shortened(self, settings: DistillSettings) -> DistillSettings:
        images = settings.recipe.images_for(_SHORT_BATCHES)
        return settings.model_copy(update={"images": min(settings.images, images)})

    def check(self, context: Context[DistillSettings]) -> None:
        """Refuse a recipe, overrides and results of earlier stages that do not fit together."""
        from tasks.data.encoded_inputs import encodes_data  # loads torch

        recipe = context.settings.recipe
        teacher = inspect_teacher(context.inputs["teacher"])
        chosen = context.settings.preset == "published" or context.settings.lr is not None
        told = rate_of_small_networks(recipe, chosen, teacher.parameters)
        if told is not None:
            context.warn(told)
        if context.parallel == "shard":
            self._check_shards(context, teacher)
        with laid_at("distill.export"):
            require_form(context.settings.export, recipe.student)
        made = context.manifests["trajectories"].settings
        there = made.get("needs") != "nothing"
        check_needs(recipe, data=not recipe.needs.data or encodes_data(context) or there, pairs=there)
        if recipe.needs.states and not made.get("keep"):
            raise SettingsError(f"recipe {recipe.name} needs states along the trajectories; set trajectories.keep: all")

    @staticmethod
    def _check_shards(context: Context[DistillSettings], teacher: TeacherInfo) -> None:
        from fewstep.teachers.pipeline_loading import probe_network  # loads torch
        from fewstep.training.recipe_fit import require_shardable

        require_shardable(context.settings.recipe, probe_network(teacher.folder / teacher.part, teacher.network))
        if context.settings.recipe.training.parts == 1:
            context.warn("compute.parallel: shard shares nothing where a batch has one part: set distill.parts to the "
                         "number of devices or more")

    def units(self, context: Context[DistillSettings]) -> list[str]:
        return [name for name in _names(context.settings.recipe) if not _result_file(context, name).is_file()]

    def run_unit(self, context: Context[DistillSettings], unit: str) -> None:
        """Train one round to its end, from its newest checkpoint; earlier rounds are read from theirs."""
        from fewstep.training.distillation import network_digest  # loads transformers

        recipe = context.settings.recipe
        index = _names(recipe).index(unit)
        lengths = [recipe.images_of(k, context.settings.images) for k in range(len(recipe.rounds))]
        before, total, begun = sum(lengths[:index]), sum(lengths), time.monotonic()

        def on_progress(done: int, _round: int, figures: dict[str, float]) -> None:
            context.progress(before + done, total, metrics=figures, step=before + done)

        student = _distillation(context).student_after(index, on_progress)
        context.record_cost({unit: {"seconds": round(time.monotonic() - begun, 3), "images": lengths[index]}})
        result = RoundResult(round=unit, images=lengths[index], turns=recipe.rounds[index].turns,
                             weights=network_digest(student.denoiser))  # fmt: skip
        write_atomically(_result_file(context, unit), result.model_dump_json(indent=1))

    def parts(self, settings: DistillSettings, unit: str | None = None) -> int:
        return settings.recipe.training.parts

    def join(self, context: Context[DistillSettings], unit: str) -> None:
        """Train the same round; the first process alone keeps checkpoints and makes pairs."""
        _distillation(context).student_after(_names(context.settings.recipe).index(unit))

    def finish(self, context: Context[DistillSettings]) -> DistillResult:
        """Export the last round's student as the stage's output."""
        from fewstep.students.export import export_student  # loads transformers

        recipe = context.settings.recipe
        student = _distillation(context).student()
        student.denoiser.to("cpu")
        export = context.scratch / "export"
        shutil.rmtree(export, ignore_errors=True)
        form = export_student(student, export, context.settings.export, context.inputs["teacher"])
        if form != context.settings.export:
            context.warn(f"distill.export: no {context.settings.export} of this pipeline is known to diffusers; the "
                         f"student leaves as a whole {form}, adapters merged")  # fmt: skip
        shutil.rmtree(context.out, ignore_errors=True)
        os.rename(export, context.out)
        files = [_result_file(context, name) for name in _names(recipe)]
        return DistillResult(
            recipe=recipe.name, steps=recipe.student.steps, sampler=student.sampler.kind,
            parameters=sum(value.numel() for value in student.denoiser.parameters()),
            rounds=tuple(parse(RoundResult, json.loads(path.read_bytes()), path.name) for path in files),
        )  # fmt: skip


def _names(recipe: Recipe) -> list[str]:
    return [f"round-{k + 1}" for k in range(len(recipe.rounds))]


def _result_file(context: Context[DistillSettings], unit: str) -> Path:
    return context.scratch / unit / "round.json"


def data_of(context: Context[DistillSettings]) -> DataSource:
    """The user's samples; where there are prompts alone, the teacher's."""
    from fewstep.data.sized import by_size  # loads torch
    from fewstep.trajectories.sized_sets import open_sets
    from fewstep.trajectories.teacher_samples import TeacherSamples
    from tasks.data.encoded_inputs import lacks_samples, training_data

    if lacks_samples(context):
        return by_size(TeacherSamples, open_sets(context.inputs["trajectories"]))
    return training_data(context)


def _distillation(context: Context[DistillSettings]) -> Distillation:
    from fewstep.families.codec import SampleDecoder  # loads torch
    from fewstep.training import Distillation, RunOptions
    from fewstep.trajectories.sized_sets import open_sets
    from fewstep.util.device import default_device
    from tasks.data.encoded_inputs import stage_codec, stage_teacher

    recipe, made = context.settings.recipe, context.manifests["trajectories"].settings
    chosen = {key: made[key] for key in TrajectorySettings.model_fields if key in made}
    teacher = stage_teacher(context)
    if any(term.sees_samples for one in recipe.rounds for term in one.terms):
        codec = context.once(stage_codec)
        teacher.decoder = None if codec is None or codec.autoencoder is None else SampleDecoder(codec)
    return Distillation(
        recipe,
        teacher,
        RunOptions(
            images=context.settings.images,
            seed=context.seed,
            folder=context.scratch,
            device=default_device(),
            checkpoint_images=context.checkpoint_images,
            gradient_checkpointing=context.settings.gradient_checkpointing or context.gradient_checkpointing,
            averages_apart=context.ema_device == "cpu",
            shards=context.parallel == "shard",
            reshard=context.reshard,
            warn=context.warn,
        ),
        data=data_of(context) if recipe.needs.data else None,
        pairs=open_sets(context.inputs["trajectories"]) if recipe.rounds[0].needs.pairs else None,
        trajectories=parse(TrajectorySettings, chosen, "trajectories"),
        on_pairs=lambda done, total: context.progress(done, total, unit="pairs"),
    )
