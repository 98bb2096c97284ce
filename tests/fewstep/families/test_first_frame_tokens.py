"""A first frame in the place of a video's first tokens (LTX): it stands clean whatever the state says there, so that
all samplers end in it, and the sample that is decoded holds it."""

from __future__ import annotations

import copy
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from fewstep.diffusion.denoiser import Denoiser
from fewstep.families.codec import Codec
from fewstep.families.recorded_conditions import table_of
from fewstep.students.export import export_student
from fewstep.students.student import StudentSettings, make_student
from fewstep.teachers import load_teacher
from fewstep.training.distillation import Distillation
from fewstep.training.run_options import RunOptions
from fewstep.training.step.batches import TensorData
from fewstep.trajectories import TrajectorySettings
from tests.fewstep.families.image_pipelines import SEEING, picture
from tests.fewstep.families.recipe_matrix import quick
from tests.fewstep.families.test_replay import PROMPTS

KIND, TOKENS = SEEING["first_tokens"], 64


def saved(folder: Path) -> tuple[Any, Denoiser]:
    """The pipeline, saved to a folder, and the teacher there with two conditions. (Its tokenizer is trained, by several
    threads, so that another one need not be equal.)"""
    pipe = KIND.save(folder)
    found, images = load_teacher(folder, arguments=KIND.arguments), [picture((32, 32), seed) for seed in (0, 1)]
    return pipe, found.take(table_of(pipe, found.family, PROMPTS, images={"image": images}, seeds=[5, 6]))


@cache
def _loaded() -> tuple[Any, Denoiser]:
    with tempfile.TemporaryDirectory() as folder:
        return saved(Path(folder))


def loaded() -> tuple[Any, Denoiser]:
    """The pipeline, and its teacher, a copy."""
    pipe, found = _loaded()
    return pipe, copy.deepcopy(found)


def noise(denoiser: Denoiser, count: int = 2) -> torch.Tensor:
    return torch.randn(count, *denoiser.sample_shape, generator=torch.Generator().manual_seed(0))


def test_what_the_state_says_of_the_first_frame_changes_nothing():
    _, teacher = loaded()
    x, frame = noise(teacher), teacher.table.read(torch.arange(2))["still"]
    other = torch.cat([torch.zeros_like(x[:, :TOKENS]), x[:, TOKENS:]], dim=1)
    for guidance in (1.0, 4.0):
        one, two = (teacher.predict(some, 0.5, torch.arange(2), guidance) for some in (x, other))
        assert torch.equal(one.x0[:, TOKENS:], two.x0[:, TOKENS:])
        assert all(torch.allclose(found.x0[:, :TOKENS], frame, atol=1e-5) for found in (one, two))


def drawn(pipe: Any, **asked: Any) -> tuple[list[torch.Tensor], torch.Tensor]:
    """What a pipeline's transformer is given at each step, and the video (1, F, C, H, W) that it makes."""
    seen: list[torch.Tensor] = []
    handle = pipe.transformer.register_forward_pre_hook(
        lambda _module, _values, named: seen.append(named["hidden_states"].clone()), with_kwargs=True)
    try:
        found = pipe(prompt=PROMPTS[:1], image=picture((32, 32), 0), generator=torch.Generator().manual_seed(5),
                     output_type="pt", return_dict=False, **asked)[0]  # fmt: skip
    finally:
        handle.remove()
    return seen, found


@pytest.mark.parametrize("steps", [1, 3])
def test_a_student_samples_what_the_pipeline_does_at_its_times(steps):
    """The same network: the pipeline's scheduler steps the other frames alone, and decodes the first with them."""
    pipe, teacher = loaded()
    student = make_student(teacher, StudentSettings(steps=steps, sampler="ode"))
    seen, wanted = drawn(pipe, num_inference_steps=steps, guidance_scale=1.0, **KIND.arguments)
    times = tuple(float(sigma) for sigma in pipe.scheduler.sigmas[:-1])
    student.sampler = student.sampler.model_copy(update={"times": times, "start": None})
    states = student.sample(seen[0], condition=torch.tensor([0]))
    found = Codec(pipe, teacher.family).decode(states) / 2 + 0.5
    assert len(times) == len(seen) == steps and torch.allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("times", [(0.7, 0.4), (1.0, 0.5)])
def test_an_exported_student_samples_what_it_does_from_any_start(tmp_path, times):
    stock, teacher = saved(tmp_path / "teacher")
    student = make_student(teacher, StudentSettings(steps=2, sampler="ode"))
    student.sampler = student.sampler.model_copy(update={"times": times, "start": None})
    export_student(student, tmp_path / "student", "pipeline", tmp_path / "teacher")
    alone = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "student", trust_remote_code=True)
    alone.set_progress_bar_config(disable=True)
    seen, wanted = drawn(alone)
    states = student.sample(seen[0] / times[0], condition=torch.tensor([0]))
    found = Codec(stock, teacher.family).decode(states) / 2 + 0.5
    assert len(seen) == 2 and float((found - wanted).abs().max()) < 1e-4


@pytest.mark.parametrize("name", ["dmd2", "lcm", "kd"])
def test_recipes_train_on_it(name, tmp_path):
    _, teacher = loaded()
    x = noise(teacher, 8)
    job = Distillation(quick(name), teacher, RunOptions(24, 0, tmp_path, keep_checkpoints=False),
                       data=TensorData(x, torch.arange(8) % 2),
                       trajectories=TrajectorySettings(count=8, steps=2, record_size=4))  # fmt: skip
    student = job.student()
    drawn, frame = student.sample(x[:2], condition=torch.arange(2)), teacher.table.read(torch.arange(2))["still"]
    assert drawn.isfinite().all() and torch.allclose(drawn[:, :TOKENS], frame, atol=1e-4)
