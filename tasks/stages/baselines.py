"""The baselines stage: the teacher under training-free solvers at several costs, measured once for all students."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.util.errors import NonFinite, SettingsError
from tasks.config.schema import Settings
from tasks.evaluation.documents import BASELINES, to_json
from tasks.evaluation.settings import BaselinesResult, BaselinesSettings
from tasks.stages.base import Context, Stage

if TYPE_CHECKING:
    from fewstep.metrics.sample_set import Sampled
    from tasks.evaluation.baseline_plan import Baseline


class BaselinesStage(Stage[BaselinesSettings, BaselinesResult]):
    """Samples and measures every solver at every cost; a unit is one solver at one cost, with those that are the same
    there."""

    # What computes is imported in the methods: importing torch takes seconds, and the graph imports this file.

    name = "baselines"
    output = "data/baselines"
    settings_type = BaselinesSettings
    inputs = ("shard", "classifier", "encode", "teacher", "reference")
    params = ("seed", "evaluate")
    parallel = True
    apart = True

    def resolve(self, settings: Settings) -> BaselinesSettings:
        return BaselinesSettings.of(settings.evaluate)

    def check(self, context: Context[BaselinesSettings]) -> None:
        """Raises SettingsError for an unknown solver, counts too low for guidance, or a teacher with other classes."""
        from fewstep.data.images import load_split  # loads torch
        from fewstep.diffusion.guidance import calls, told
        from fewstep.diffusion.solvers import network_evaluations
        from fewstep.teachers import inspect_teacher
        from tasks.data import extractor_files
        from tasks.evaluation.baseline_plan import plan

        settings = context.settings
        extractor_files.check(context.workspace, settings.extractors)
        for solver in settings.solvers:
            network_evaluations(solver, 1, settings.guidance)
        if not plan(settings):
            raise SettingsError(
                f"evaluate.baseline_steps {settings.counts} are too few network evaluations for "
                f"guidance {told(settings.guidance)}, under which every step counts {calls(settings.guidance)}"
            )
        teacher, data = inspect_teacher(context.inputs["teacher"]), load_split(context.inputs["shard"], "test")
        if teacher.recorded:
            return  # the encode stage has held data and teacher to each other
        if tuple(teacher.sample_shape) != data.shape:
            raise SettingsError(
                f"the teacher draws images of shape {tuple(teacher.sample_shape)}, the data's are {data.shape} "
                f"(channels, height, width): set data.size and data.channels to the teacher's"
            )
        if teacher.num_classes and data.num_classes and teacher.num_classes != data.num_classes:
            raise SettingsError(
                f"the teacher knows {teacher.num_classes} classes, the images have {data.num_classes}: "
                f"class-conditional evaluation needs the same classes in the same order"
            )

    def units(self, context: Context[BaselinesSettings]) -> list[str]:
        from tasks.evaluation.baseline_plan import plan  # loads torch
        from tasks.evaluation.samplers import unfinished

        everything = plan(context.settings)
        return unfinished(context, {baseline.drawn_as: _file(context, baseline) for baseline in everything})

    def run_unit(self, context: Context[BaselinesSettings], unit: str) -> None:
        from tasks.evaluation.baseline_plan import plan, teacher_baseline  # loads torch
        from tasks.evaluation.examination_setup import stage_examination
        from tasks.evaluation.samplers import baseline_draw, ready_teacher, sample_unit

        everything = plan(context.settings)
        baseline = next(one for one in everything if one.name == unit)
        teacher = ready_teacher(context)

        def accept(sampled: Sampled) -> None:
            if sampled.finite < 1 and baseline == teacher_baseline(everything):
                raise NonFinite(
                    f"teacher: {1 - sampled.finite:.1%} of its samples with {baseline.solver} at "
                    f"{baseline.evaluations} network evaluations are NaN or infinite", role="teacher",
                )  # fmt: skip

        sample_unit(context, stage_examination(context, teacher.num_classes),
                    baseline_draw(teacher, baseline, context.settings.seed), _file(context, baseline),
                    accept)  # fmt: skip

    def finish(self, context: Context[BaselinesSettings]) -> BaselinesResult:
        from fewstep.util.torch_threads import threads  # loads torch
        from tasks.evaluation.baseline_measurement import measure_baselines
        from tasks.evaluation.baseline_plan import plan
        from tasks.evaluation.examination_setup import stage_examination
        from tasks.evaluation.samplers import ready_teacher

        everything, teacher = plan(context.settings), ready_teacher(context)
        with threads(1):
            document, arrays = measure_baselines(
                stage_examination(context, teacher.num_classes), teacher, everything,
                [_file(context, baseline) for baseline in everything], context.settings, context.settings.seed,
                context.workers, context.warn)  # fmt: skip
            context.out.mkdir(parents=True, exist_ok=True)
            arrays.save(context.out)
        (context.out / BASELINES).write_text(to_json(document), encoding="utf-8")
        return BaselinesResult(samples=context.settings.samples, baselines=len(document.rows),
                               features=document.features)  # fmt: skip

    def costs(self, context: Context[BaselinesSettings]) -> dict:
        """Latency of every baseline, throughput of the teacher at its highest count, and peak memory."""
        from fewstep.metrics.latency import time_latency, time_throughput  # only where it is measured
        from tasks.evaluation.baseline_plan import plan, teacher_baseline
        from tasks.evaluation.examination_setup import stage_examination
        from tasks.evaluation.samplers import baseline_draw, footprint, ready_teacher, timed_draw

        settings, everything = context.settings, plan(context.settings)
        teacher, best = ready_teacher(context), teacher_baseline(everything)
        samples = stage_examination(context, teacher.num_classes).plan
        draws = {one.name: timed_draw(samples, baseline_draw(teacher, one, settings.seed)) for one in everything}
        solvers = {name: time_latency(draw, repeats=5) for name, draw in draws.items()}
        throughput = time_throughput(draws[best.name], settings.batch, seconds=0.5)
        of_teacher = {"solver": best.solver, "evaluations": best.evaluations, **solvers[best.name], **throughput}
        return {"teacher": of_teacher, "solvers": solvers, **footprint(teacher)}

    def shortened(self, settings: BaselinesSettings) -> BaselinesSettings:
        """All solvers, with few samples and at the highest count only: under guidance lower ones may not exist."""
        return settings.model_copy(update={
            "samples": min(settings.samples, 64), "batch": min(settings.batch, 32),
            "baseline_steps": (max(settings.baseline_steps),), "teacher_steps": None})  # fmt: skip


def _file(context: Context[BaselinesSettings], baseline: Baseline) -> Path:
    return context.scratch / f"{baseline.drawn_as}.safetensors"
