"""A teacher that runs on a GPU: no tensor of it meets one of the CPU, and records are stored from the CPU."""

import pytest
import torch

from fewstep.data.records import decode_record
from fewstep.teachers import GaussianMixture
from fewstep.trajectories import SetWriter, plan_set
from fewstep.trajectories.teacher_runtime import prepare
from fewstep.util.device import device_of
from tests.fake_device import FakeCuda
from tests.fewstep.trajectories.making import TINY, small_unet


def mixture() -> GaussianMixture:
    return GaussianMixture(torch.tensor([[-1.0, 0.5], [1.0, 0.0], [0.0, 2.0]]), 0.2)


@pytest.mark.parametrize(("teacher", "changes"), [
    (small_unet, {}), (small_unet, {"guidance": 2.0, "keep": "all", "precision": "bfloat16", "dtype": "float16"}),
    (small_unet, {"solver": "heun"}), (mixture, {"keep": (0, 1)}),
], ids=["unet", "guided", "heun", "mixture"])  # fmt: skip
def test_a_record_is_made_on_the_gpu_and_stored_from_the_cpu(teacher, changes, tmp_path):
    denoiser, settings = teacher(), TINY.model_copy(update=changes)
    with FakeCuda() as gpu:
        plan = plan_set(denoiser, settings, seed=3, teacher_digest="a teacher", device="cuda")
        made = prepare(denoiser, plan)
        payload = SetWriter(tmp_path / "out", tmp_path / "scratch", plan).make_batch(made, 0)
    assert plan.device == device_of(made) == torch.device("cuda:0") and gpu.moved
    assert device_of(denoiser) == torch.device("cpu")
    assert all(tensor.device.type == "cpu" for tensor in decode_record(payload).tensors.values())
    assert plan.fields == plan_set(denoiser, settings, seed=3, teacher_digest="a teacher").fields


def test_a_teacher_that_stayed_on_the_cpu_is_noticed(tmp_path):
    with FakeCuda():
        plan = plan_set(small_unet(), TINY, seed=3, teacher_digest="a teacher", device="cuda")
        with pytest.raises(RuntimeError, match="two devices"):
            SetWriter(tmp_path / "out", tmp_path / "scratch", plan).make_batch(small_unet(), 0)
