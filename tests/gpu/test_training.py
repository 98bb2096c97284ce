"""Training and teacher data on a GPU: bfloat16, compiled networks, and a kill that changes no bit of what follows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import torch

from fewstep.data.records import decode_record
from fewstep.trajectories import SetWriter, plan_set
from fewstep.trajectories.teacher_runtime import prepare
from tests.fewstep.training.small import BATCH, checkpoint_bytes, finish, run, teacher, tiny
from tests.fewstep.trajectories.making import TINY, small_unet
from tests.gpu.needs import DEVICE, GPU
from tests.project import ROOT

pytestmark = GPU


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_a_student_is_trained(precision, tmp_path):
    before = teacher().state_dict()
    found = finish(run(tiny("dmd2", precision=precision), tmp_path, 12 * BATCH, device=DEVICE))
    assert all(value.isfinite().all() for value in found.values() if value.is_floating_point())
    assert any(not torch.equal(found[name].cpu(), value) for name, value in before.items() if name in found)


@pytest.mark.parametrize("changes", [{"compile": True}, {"compile": True, "precision": "bfloat16"}],
                         ids=["float32", "bfloat16"])  # fmt: skip
def test_a_compiled_teacher_makes_records(changes, tmp_path):
    plan = plan_set(small_unet(), TINY.model_copy(update=changes), seed=3, teacher_digest="a teacher", device=DEVICE)
    payload = SetWriter(tmp_path / "out", tmp_path / "scratch", plan).make_batch(prepare(small_unet(), plan), 0)
    tensors = decode_record(payload).tensors.values()
    assert all(value.isfinite().all() for value in tensors if value.is_floating_point())


@pytest.mark.parametrize("name", ["dmd2", "cd"])
def test_a_killed_training_goes_on_to_the_same_bits(name, tmp_path):
    for folder, fatal in (("straight", None), ("killed", 12 * BATCH), ("killed", None)):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fewstep.training.small", name, str(tmp_path / folder), DEVICE], cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
            stdout=subprocess.PIPE, text=True)  # fmt: skip
        with process.stdout as said:
            for line in said:
                if fatal is not None and int(line) >= fatal:
                    process.kill()
                    break
        assert process.wait() == (0 if fatal is None else -signal.SIGKILL)
    found = checkpoint_bytes(tmp_path / "killed")
    assert found and found == checkpoint_bytes(tmp_path / "straight")
