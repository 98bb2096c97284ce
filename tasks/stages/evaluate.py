"""The evaluate stage: the student beside teacher, training-free solvers and real images, under one protocol."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.metrics.metric_names import counted
from fewstep.util.errors import NonFinite, SettingsError
from tasks.config.chosen_recipe import chosen_recipe
from tasks.config.schema import Evaluate, Settings
from tasks.evaluation.documents import BASELINES, EVALUATION, HEADLINE, Baselines, read, to_json
from tasks.evaluation.headline import headline, models, quality_table
from tasks.evaluation.settings import EvaluateSettings, EvaluationResult
from tasks.stages.base import Context, Stage
from tasks.storage.workspace import Workspace

if TYPE_CHECKING:
    from fewstep.metrics.sample_set import Sampled

GRID, QUALITY, CURVES, PICTURES = "grid.png", "quality.csv", "curves", "report.safetensors"


def _curves(title: str, figure: str) -> dict:
    """DVC's plot of a figure of student and solvers over network evaluations."""
    files = (f"data/evaluation/{CURVES}/{model}.csv" for model in ("student", *Evaluate().solvers))
    return {f"{title} over network evaluations": {"template": "linear", "x": "evaluations",
                                                  "y": dict.fromkeys(files, figure)}}  # fmt: skip


class EvaluateStage(Stage[EvaluateSettings, EvaluationResult]):
    """Samples and measures the student and compares it with the baselines; a unit is one number of steps."""

    # What computes is imported in the methods: importing torch takes seconds, and the graph imports this file.

    name = "evaluate"
    output = "data/evaluation"
    settings_type = EvaluateSettings
    inputs = ("shard", "classifier", "encode", "teacher", "reference", "distill", "baselines")
    params = ("seed", "evaluate")
    parallel = True
    apart = True
    metrics = (HEADLINE,)
    plots = (_curves("Distance to the reference", "fd_infinite"), _curves("Kernel distance", "kid"))

    def resolve(self, settings: Settings) -> EvaluateSettings:
        steps = settings.evaluate.steps or (chosen_recipe(settings.distill).student.steps,)
        return EvaluateSettings.of(settings.evaluate.model_copy(update={"steps": steps}))

    def check(self, context: Context[EvaluateSettings]) -> None:
        """Raises SettingsError when the baselines were made under another protocol."""
        from tasks.data import extractor_files  # loads torch

        extractor_files.check(context.workspace, context.settings.extractors)
        made = context.manifests["baselines"].settings
        for name in ("samples", "seed", "batch", "extractors"):
            wanted = getattr(context.settings, name)
            if made.get(name) != wanted:
                raise SettingsError(
                    f"evaluate.{name} is {wanted}, the baselines were made with {made.get(name)}: "
                    f"run the baselines stage first"
                )

    def units(self, context: Context[EvaluateSettings]) -> list[str]:
        from tasks.evaluation.samplers import unfinished  # loads torch

        return unfinished(context, {f"steps-{steps}": _file(context, steps) for steps in context.settings.counts})

    def run_unit(self, context: Context[EvaluateSettings], unit: str) -> None:
        from tasks.evaluation.examination_setup import stage_examination  # loads torch
        from tasks.evaluation.samplers import sample_unit, stage_student, student_draw

        steps = int(unit.removeprefix("steps-"))
        student = stage_student(context)

        def accept(sampled: Sampled) -> None:
            if sampled.finite < 1:
                share, cost = f"{1 - sampled.finite:.1%}", counted(steps, "step")
                raise NonFinite(f"student: {share} of its samples with {cost} are NaN or infinite", role="student")

        sample_unit(context, stage_examination(context, student.denoiser.num_classes),
                    student_draw(student, context.settings.seed, steps), _file(context, steps), accept)  # fmt: skip

    def finish(self, context: Context[EvaluateSettings]) -> EvaluationResult:
        from safetensors.torch import save_file  # loads torch

        from fewstep.metrics.sample_set import unpack  # loads torch
        from fewstep.util.image_grid import save
        from fewstep.util.torch_threads import threads
        from tasks.evaluation.baseline_arrays import BaselineArrays
        from tasks.evaluation.examination_setup import stage_examination
        from tasks.evaluation.picture_grid import picture_grid
        from tasks.evaluation.report_arrays import report_arrays
        from tasks.evaluation.samplers import stage_student
        from tasks.evaluation.student_measurement import measure_student

        student = stage_student(context)
        folder, out = context.inputs["baselines"], context.out
        baselines, arrays = read(Baselines, folder / BASELINES), BaselineArrays.load(folder)
        samples = {steps: unpack(_file(context, steps)) for steps in context.settings.counts}
        out.mkdir(parents=True, exist_ok=True)
        with threads(1):
            examination = stage_examination(context, student.denoiser.num_classes)
            evaluation = measure_student(examination, student, samples, baselines, arrays)
            save(picture_grid(evaluation, examination.plan, samples, arrays, context.settings.grid), out / GRID)
            save_file(report_arrays(evaluation, examination, student, samples, arrays, context.settings.seed),
                      out / PICTURES)  # fmt: skip
        plain = headline(evaluation)
        (out / EVALUATION).write_text(to_json(evaluation), encoding="utf-8")
        (out / HEADLINE).write_text(to_json(plain), encoding="utf-8")
        (out / QUALITY).write_text(quality_table(evaluation), encoding="utf-8")
        shutil.rmtree(out / CURVES, ignore_errors=True)
        (out / CURVES).mkdir()
        for model in models(evaluation):
            (out / CURVES / f"{model}.csv").write_text(quality_table(evaluation, model), encoding="utf-8")
        first = evaluation.first.values
        return EvaluationResult(samples=evaluation.samples, features=evaluation.features, protocol=plain.measured,
                                fd_infinite=first["fd_infinite"].value, kid=first["kid"].value)  # fmt: skip

    def costs(self, context: Context[EvaluateSettings]) -> dict:
        """Latency and throughput of the student at each number of steps, its parameters, and peak memory."""
        from fewstep.metrics.latency import time_sampling  # only where it is measured
        from tasks.evaluation.examination_setup import stage_examination
        from tasks.evaluation.samplers import footprint, stage_student, student_draw, timed_draw

        settings, student = context.settings, stage_student(context)
        plan = stage_examination(context, student.denoiser.num_classes).plan
        draws = {steps: timed_draw(plan, student_draw(student, settings.seed, steps)) for steps in settings.counts}
        timed = {str(steps): time_sampling(draw, settings.batch, seconds=0.5) for steps, draw in draws.items()}
        return {"student": timed, **footprint(student.denoiser)}

    def beside(self, workspace: Workspace) -> Path | None:
        """The report: it shows durations, which enter no key."""
        from tasks.report import build  # only where the page is made

        return build.make(workspace)

    def shortened(self, settings: EvaluateSettings) -> EvaluateSettings:
        """The fewest steps only. The number of samples is that of the baselines, with which they are paired."""
        return settings.model_copy(update={"steps": (min(settings.steps),), "grid": min(settings.grid, 2)})


def _file(context: Context[EvaluateSettings], steps: int) -> Path:
    return context.scratch / f"steps-{steps}.safetensors"
