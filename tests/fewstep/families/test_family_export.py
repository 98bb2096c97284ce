"""A student of each family leaves as a pipeline that samples what it samples, with nothing to be said."""

from __future__ import annotations

import os
import sys
from functools import wraps
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from fewstep.families.codec import Codec
from fewstep.families.recorded_conditions import table_of
from fewstep.students import student as student_module
from fewstep.students.export import export_student, load_student
from fewstep.students.student import Student, make_student
from fewstep.students.student_settings import StudentSettings
from fewstep.teachers import inspect_teacher, load_teacher
from fewstep.teachers.pipeline_loading import load_pipeline
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
    "late-angle-2": {"steps": 2, "spacing": "angle", "max_noise_ratio": 2.5},
}
PLANNED = {  # by no stock scheduler: it adds no noise, takes no times of its own, or begins at pure noise only
    "renoise-3": {"stable_audio"},
    "angle-3": {"stable_audio", "dit", "wan", "ltx"},
    "late-renoise-2": {"stable_audio", "sd3", "flux", "sana", "wan", "ltx"},
    "late-angle-2": {"stable_audio", "sd3", "flux", "sana", "wan", "ltx", "dit"},
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
    assert bool(alone.config.plan["rows"]) == (kind in PLANNED.get(case, ()))
    assert calls == len(seen) == student.sampler.steps
    assert bool(fresh) == (student.sampler.kind == "renoise")
    start = float(student.denoiser.process.initial(torch.ones(1).double(), student.start))
    noise = torch.randn(seen[0].numel(), generator=torch.Generator().manual_seed(1))     # some are packed: in any order
    assert torch.allclose(seen[0].flatten().sort().values, start * noise.sort().values, rtol=1e-5, atol=1e-5 * start)
    wanted = sampled(student, seen[0] / start, condition, fresh)
    assert torch.allclose(end, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    again = load_student(tmp_path)
    if kind != "dit":
        again.denoiser.take(student.denoiser.table)
    assert torch.equal(sampled(again, seen[0] / start, condition, fresh), wanted)


def made(tmp_path: Path, kind: str, **settings: Any) -> tuple[Any, Student, Path]:
    """The stock pipeline of a kind, a student of it, and where that is exported."""
    pipe = KINDS[kind].save(tmp_path / "teacher")
    teacher = load_teacher(tmp_path / "teacher", arguments=KINDS[kind].arguments)
    student = trained(make_student(teacher, StudentSettings(**settings)))
    export_student(student, tmp_path / "student", teacher=tmp_path / "teacher")
    return pipe, student, tmp_path / "student"


def opened(folder: Path) -> Any:
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_images_are_the_decoded_samples(tmp_path):
    pipe, student, folder = made(tmp_path, "sd", steps=2)
    asked("sd", pipe, student)
    noise = torch.randn((2, *student.denoiser.sample_shape), generator=torch.Generator().manual_seed(1))
    images = opened(folder)(PROMPTS, generator=torch.Generator().manual_seed(1), output_type="pt").images
    samples = student.sample(noise, condition=torch.arange(2))
    decoded = Codec(pipe, student.denoiser.family).decode(samples) / 2 + 0.5
    assert torch.allclose(images, decoded.clamp(0, 1), atol=1e-4)


def test_whoever_says_steps_guidance_or_sizes_gets_them(tmp_path):
    for kind, settings in (("sd", {"steps": 2}), ("sd3", {"steps": 3, "spacing": "angle"})):
        _, _, folder = made(tmp_path / kind, kind, **settings)
        pipe, seen = opened(folder), []
        getattr(pipe, "unet" if kind == "sd" else "transformer").register_forward_hook(
            lambda _module, _given, output, seen=seen: seen.append(len(output[0])))
        pipe("a red apple", num_inference_steps=4, guidance_scale=3.0, output_type="latent")
        assert seen == [2] * 4
        assert pipe(prompt="a red apple", height=16, width=16, output_type="pt").images.shape[-2:] == (16, 16)


def test_the_students_own_number_of_steps_keeps_its_times(tmp_path):
    _, _, folder = made(tmp_path, "sd3", steps=3, spacing="angle")
    pipe = opened(folder)
    plain, said, other = (
        pipe("a red apple", **more, output_type="latent", generator=torch.Generator().manual_seed(1)).images
        for more in ({}, {"num_inference_steps": 3}, {"sigmas": [1.0, 0.5, 0.25]}))  # fmt: skip
    assert torch.equal(plain, said) and not torch.equal(plain, other)


def test_planned_steps_are_as_many_as_the_student_has(tmp_path):
    _, _, folder = made(tmp_path, "wan", steps=2, max_noise_ratio=2.5)
    with pytest.raises(ValueError, match="samples in 2 steps, not in 5"):
        opened(folder)("a red apple", num_inference_steps=5)
    pipe = opened(folder)
    scheduler = pipe.scheduler
    pipe("a red apple", output_type="latent")
    assert pipe.scheduler is scheduler and "prepare_latents" not in vars(pipe)


@pytest.mark.parametrize("kind", ["sd", "flux"])
def test_the_same_student_is_the_same_bytes_and_the_teachers_parts_are_no_copies(tmp_path, kind):
    pipe, student, folder = made(tmp_path, kind, steps=2, sampler="renoise")
    export_student(load_student(folder), tmp_path / "again", teacher=tmp_path / "teacher")
    first, again = ({path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
                    for root in (folder, tmp_path / "again"))  # fmt: skip
    assert {name: path.read_bytes() for name, path in first.items()} == {
        name: path.read_bytes() for name, path in again.items()}
    linked = {name for name, path in first.items()
              if (tmp_path / "teacher" / name).exists() and os.path.samefile(path, tmp_path / "teacher" / name)}
    part = student.denoiser.family.part
    own = {"fewstep.json", "model_index.json", "pipeline.py", "scheduler/scheduler_config.json", f"{part}/config.json",
           f"{part}/diffusion_pytorch_model.safetensors"}  # fmt: skip
    assert set(first) - linked == own and linked


def test_a_students_folder_encodes_and_decodes_without_its_code(tmp_path):
    pipe, student, folder = made(tmp_path, "sd", steps=1)
    (folder / "pipeline.py").write_text("raise SystemExit('executed')")
    info = inspect_teacher(folder)
    again = load_pipeline(info)
    assert info.pipeline == type(again).__name__ == "StableDiffusionPipeline"
    table, other = (table_of(one, student.denoiser.family, PROMPTS) for one in (pipe, again))
    assert all(torch.equal(table.tensors[name], other.tensors[name]) for name in table.tensors)


def test_times_are_those_that_the_student_was_trained_at_whatever_the_library_yields(tmp_path, monkeypatch):
    _, student, folder = made(tmp_path, "sd3", steps=3)
    times = student.times()
    monkeypatch.setattr(student_module, "scheduler_times", lambda *_: None)
    assert torch.equal(load_student(folder).times(), times)
    assert not torch.equal(Student(student.denoiser, student.sampler).times(), times)
