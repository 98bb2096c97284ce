"""Processes that train on GPUs: whatever they ask of each other, their group can carry it, from the GPU and the CPU.

The group is a real one, of which a stand-in for nccl carries nothing; torch itself says which tensors it takes.
"""

import contextlib

import pytest
import torch
from torch import distributed
from torch.testing._internal.distributed.fake_pg import FakeStore

from fewstep.training import distributed as groups
from fewstep.training.distributed import World, backends
from tasks.engine.group.meeting import join
from tests.fake_device import FakeCuda


@contextlib.contextmanager
def group_of_two(monkeypatch, made_up: dict[str, str]):
    """The first of two processes on GPUs, the other of which brings what this one does."""
    monkeypatch.setattr(groups, "BACKENDS", made_up)
    distributed.init_process_group(backends(gpus=True), store=FakeStore(), rank=0, world_size=2)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def ask_all(on_gpu: torch.Tensor) -> None:
    """All that processes ask of each other in a training whose parameters and gradients lie on GPUs."""
    world = World.current()
    assert world.size == 2 and on_gpu.is_cuda
    first, second = world.sum_gradients([on_gpu, on_gpu], [on_gpu, on_gpu])
    assert first.is_cuda and second.shape == on_gpu.shape
    assert world.gathered(on_gpu.sum()).is_cuda
    world.require_equal("what it is", "the same")
    assert world.any(True) and world.of_each("what") == ["what", "what"]
    with world.first_then_others():
        assert world.average_figures({"learning_rate": 2.0, "loss": 1.0}).keys() == {"loss", "learning_rate"}


def test_whatever_processes_on_gpus_ask_of_each_other_is_carried(monkeypatch):
    with group_of_two(monkeypatch, {"cpu": "fake", "cuda": "fake"}), FakeCuda():
        ask_all(torch.zeros(3, device="cuda"))


def test_a_group_for_the_gpus_alone_would_not_carry_it(monkeypatch):
    with (group_of_two(monkeypatch, {"cuda": "fake"}),
          pytest.raises(RuntimeError, match="No backend type associated with device type cpu")):
        World.current().average_figures({"loss": 1.0})


def test_processes_with_gpus_open_a_group_for_both_and_ask_each_other_by_the_cpu(monkeypatch, tmp_path):
    monkeypatch.setattr(groups, "BACKENDS", {**groups.BACKENDS, "cuda": "fake"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    join(f"file://{tmp_path / 'store'}", 0, 1, 3)
    try:
        group = distributed.distributed_c10d._get_default_group()
        assert {device.type for device in group._device_types} == {"cpu", "cuda"} and taken == [3]
        assert distributed.distributed_c10d._get_object_coll_device(group) == "cpu"
    finally:
        distributed.destroy_process_group()


def test_the_backends_are_those_of_torch():
    known = distributed.distributed_c10d.BackendConfig(distributed.Backend(backends(gpus=True)))
    assert known.get_device_backend_map() == {"cpu": "gloo", "cuda": "nccl"}
    assert backends(gpus=False) == "gloo"
