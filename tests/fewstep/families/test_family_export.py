"""A student of each family leaves as a pipeline that samples what it samples, with nothing to be said."""

from __future__ import annotations

import sys
from functools import wraps
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from fewstep.families.family import table_of
from fewstep.students.export import export_student, load_student
from fewstep.students.student import Student, make_student
from fewstep.students.student_settings import StudentSettings
from fewstep.teachers import load_teacher
from tests.fewstep.families.pipelines import KINDS

PROMPTS = ["a red apple", "two blue cars on a road"]


@pytest.fixture(scope="module", params=list(KINDS))
def taught(request, tmp_path_factory) -> tuple[str, Any, Any, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    pipe = KINDS[request.param].save(folder)
    return request.param, pipe, load_teacher(folder, arguments=KINDS[request.param].arguments), folder


def asked(kind: str, pipe: Any, student: Student) -> tuple[dict[str, Any], Tensor]:
    """What the pipeline is asked for two samples, and the same as conditions of the student."""
    if KINDS[kind].conditions == "class_labels":
        return {"class_labels": [3, 7]}, torch.tensor([3, 7])
    student.denoiser.take(table_of(pipe, student.denoiser.family, PROMPTS))
    return {"prompt": PROMPTS}, torch.arange(2)


def trained(student: Student) -> Student:
    """The student with weights other than the teacher's, as training leaves it."""
    drawn = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in student.denoiser.network.named_parameters():
            if f"network.{name}" not in student.denoiser.held:
                value.add_(torch.randn(value.shape, generator=drawn), alpha=0.02)
    return student.eval().requires_grad_(False)


def states(pipe: Any, part: str, patch: Any, fresh: list[Tensor], **arguments: Any) -> tuple[list[Tensor], Tensor, int]:
    """The states that a pipeline's sampler steps, what it ends in, and how often its denoiser was called; what is drawn
    within the steps goes into `fresh`."""
    seen: list[Tensor] = []
    ends: list[Tensor] = []
    calls: list[int] = []
    stepping: list[int] = []
    module = sys.modules[type(pipe).__module__]
    owners = {type(pipe.scheduler), module.PlannedSteps}

    def watched(plain: Any) -> Any:
        @wraps(plain)
        def step(self: Any, output: Tensor, timestep: Any, sample: Tensor, *more: Any, **named: Any) -> Any:
            seen.append(sample.clone())
            stepping.append(1)
            result = plain(self, output, timestep, sample, *more, **named)
            stepping.pop()
            ends.append((result[0] if isinstance(result, tuple) else result.prev_sample).clone())
            return result

        return step

    def watched_noise(plain: Any) -> Any:
        def randn_tensor(*values: Any, **named: Any) -> Tensor:
            found = plain(*values, **named)
            if stepping:
                fresh.append(found.clone())
            return found

        return randn_tensor

    for owner in owners:
        patch.setattr(owner, "step", watched(owner.step))
        source = sys.modules[owner.__module__]
        if hasattr(source, "randn_tensor"):
            patch.setattr(source, "randn_tensor", watched_noise(source.randn_tensor))
    handle = getattr(pipe, part).register_forward_hook(lambda *_: calls.append(1))
    pipe.set_progress_bar_config(disable=True)
    pipe(**arguments)
    handle.remove()
    return seen, ends[-1], len(calls)


def sampled(student: Student, noise: Tensor, condition: Tensor, fresh: list[Tensor]) -> Tensor:
    """What the student makes of this noise, with these fresh noises between its steps; none: of its own kind."""
    if not fresh:
        return student.sample(noise, condition=condition)
    process, times = student.denoiser.process, student.times()
    x = student.initial(noise)
    for step, t in enumerate(times):
        x = student.denoiser.predict(x, t, condition).x0
        if step + 1 < len(times):
            x = process.add_noise(x, fresh[step], times[step + 1])
    return x


CASES = {
    "ode-1": {"steps": 1},
    "ode-3": {"steps": 3},
    "ode-4": {"steps": 4},
    "renoise-3": {"steps": 3, "sampler": "renoise"},
    "angle-3": {"steps": 3, "spacing": "angle"},
    "late-renoise-2": {"steps": 2, "sampler": "renoise", "max_noise_ratio": 2.5},
}


@pytest.mark.parametrize("case", CASES)
def test_the_exported_pipeline_samples_the_student_with_nothing_to_say(taught, tmp_path, monkeypatch, case):
    kind, pipe, teacher, folder = taught
    student = trained(make_student(teacher, StudentSettings(**CASES[case])))
    assert export_student(student, tmp_path, teacher=folder) == "pipeline"
    alone = diffusers.DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    what, condition = asked(kind, pipe, student)
    fresh: list[Tensor] = []
    seen, end, calls = states(
        alone, student.denoiser.family.part, monkeypatch, fresh, **what, generator=torch.Generator().manual_seed(1)
    )
    assert calls == len(seen) == student.sampler.steps
    assert bool(fresh) == (student.sampler.kind == "renoise")
    start = float(student.denoiser.process.initial(torch.ones(1).double(), student.start))
    wanted = sampled(student, seen[0] / start, condition, fresh)
    assert torch.allclose(end, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    again = load_student(tmp_path)
    if kind != "dit":
        again.denoiser.take(student.denoiser.table)
    assert torch.equal(sampled(again, seen[0] / start, condition, fresh), wanted)
