"""Models ready for sampling, and how the samples of an examination are drawn from them."""

import resource
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.randomness import generator
from fewstep.diffusion.sampling import sample
from fewstep.diffusion.solvers import is_stochastic
from fewstep.families.encoded_set import EncodedSet
from fewstep.metrics.evaluator import Examination
from fewstep.metrics.sample_plan import SamplePlan
from fewstep.metrics.sample_set import Sampled, collect, pack
from fewstep.students import export
from fewstep.students.student import Student
from fewstep.util.device import default_device, device_of
from fewstep.util.files import write_atomically
from tasks.data.encoded_inputs import encoded_set, stage_teacher
from tasks.evaluation.baseline_plan import Baseline
from tasks.evaluation.settings import MeasureSettings
from tasks.stages.base import Context

Draw = Callable[[Tensor, Tensor | None, Tensor], Tensor]
"""(noise (N, …), classes or rows of conditions (N,) or None, indices (N,)) → states (N, …), images in about [-1, 1]."""


def ready_teacher(context: Context[MeasureSettings]) -> Denoiser:
    """The stage's teacher with its conditions, on the device, for inference."""
    return stage_teacher(context).to(default_device()).eval().requires_grad_(False)


def ready_student(folder: Path, encoded: EncodedSet) -> Student:
    """The exported student in a folder with its conditions, on the device, for inference; no code from the folder is
    run."""
    student = export.load_student(folder)
    encoded.given_to(student.denoiser).to(default_device()).eval().requires_grad_(False)
    return student


def stage_student(context: Context[MeasureSettings]) -> Student:
    """The student of the stage's inputs; see `ready_student`."""
    return ready_student(context.inputs["distill"], context.once(encoded_set))


def student_draw(student: Student, seed: int, steps: int | None = None) -> Draw:
    """Draws from the student with `steps` steps (None: as many as it is made for)."""
    device = device_of(student.denoiser)

    def draw(noise: Tensor, classes: Tensor | None, indices: Tensor) -> Tensor:
        classes = None if classes is None else classes.to(device)
        return student.sample(noise.to(device), steps=steps, condition=classes, seed=seed, indices=indices)

    return draw


def baseline_draw(teacher: Denoiser, baseline: Baseline, seed: int) -> Draw:
    """Draws from the teacher under a training-free solver."""
    device = device_of(teacher)

    def draw(noise: Tensor, classes: Tensor | None, indices: Tensor) -> Tensor:
        chance = {}
        if is_stochastic(baseline.solver):
            chance["generator"] = generator(seed, "evaluation-solver", int(indices[0]))
        classes = None if classes is None else classes.to(device)
        return sample(teacher, noise.to(device), solver=baseline.solver, steps=baseline.steps, condition=classes,
                      guidance=baseline.sampling.guidance, **chance).x  # fmt: skip

    return draw


def unfinished(context: Context[MeasureSettings], files: Mapping[str, Path]) -> list[str]:
    """The units whose file is not there; progress is told in samples of all of them."""
    left = [unit for unit, file in files.items() if not file.is_file()]
    context.expect(len(files) * context.settings.samples, (len(files) - len(left)) * context.settings.samples)
    return left


def sample_unit(context: Context[MeasureSettings], examination: Examination, draw: Draw, path: Path,
                accept: Callable[[Sampled], None]) -> None:  # fmt: skip
    """Draws and observes the samples of one unit and writes them to `path`; `accept` raises for samples that must not
    be kept."""
    sampled = collect(examination, draw, context.advance)
    accept(sampled)
    write_atomically(path, pack(sampled))


def timed_draw(plan: SamplePlan, draw: Draw) -> Callable[[int], None]:
    """`count` samples drawn and waited for, to be timed."""
    return partial(_draw_first, plan, draw)


def _draw_first(plan: SamplePlan, draw: Draw, count: int) -> None:
    indices = torch.arange(count)
    draw(plan.noise(indices), plan.conditions(indices), indices).cpu()


def footprint(network: nn.Module) -> dict[str, int | float]:
    """Parameters of the network and peak memory of this process in MiB."""
    return {"parameters": sum(parameter.numel() for parameter in network.parameters()),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}  # fmt: skip
