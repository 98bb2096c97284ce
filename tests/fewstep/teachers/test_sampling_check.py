"""The teacher's check draws its samples where the teacher lies."""

import torch

from fewstep.diffusion.randomness import noise
from fewstep.teachers.sampling_check import draw_samples
from tests.fake_device import FakeCuda
from tests.fewstep.trajectories.making import small_unet


def test_samples_are_drawn_on_the_gpu_and_compared_on_the_cpu():
    start, labels = noise(0, "teacher-check", range(6), (1, 8, 8)), torch.arange(6)
    with FakeCuda() as gpu:
        teacher = small_unet().to("cuda")
        drawn = draw_samples(teacher, start, labels, steps=2)
    assert drawn.device.type == "cpu" and drawn.shape == start.shape and gpu.moved
    assert torch.isfinite(draw_samples(small_unet(), start, labels, steps=2)).all()
