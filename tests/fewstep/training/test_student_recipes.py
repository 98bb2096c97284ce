"""Recipes about what a student is: each trains a UNet for a few steps, and what it leaves exports and comes back."""

import pytest
import torch

from fewstep.students.export import export_student, load_student
from tests.fewstep.training.small import BATCH, finish, run, teacher, tiny

RECIPES = ["hipa", "laptop-diff", "lcm-lora", "lora-guidance", "plug-and-play", "slimflow"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_few_steps_on_images_leave_a_student_that_exports(name, tmp_path):
    job = run(tiny(name), tmp_path / "run", images=4 * BATCH, checkpoint_images=4 * BATCH)
    finish(job)
    student = job.student_after(len(job.recipe.rounds) - 1).eval()
    export_student(student, tmp_path / "student")
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 2])
    found = student.sample(noise, condition=labels)
    assert torch.isfinite(found).all()
    again = load_student(tmp_path / "student")
    assert torch.allclose(again.sample(noise, condition=labels), found, atol=1e-4)
    before = sum(value.numel() for value in teacher().parameters())
    after = sum(value.numel() for value in again.denoiser.parameters())
    assert (after < before) == (job.recipe.student.size is not None and name != "slimflow")  # 8 channels stay 8
