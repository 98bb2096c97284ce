"""The memory that is told of a run's networks is what training really holds."""

import pytest
import torch

from fewstep.networks.lora import adapter_parameters
from fewstep.recipes.training_settings import OptimiserSettings
from fewstep.students.student import make_student
from fewstep.students.student_settings import LoraSettings, StudentSettings
from fewstep.training.memory import memory_of_run
from fewstep.training.optimiser import RoleOptimiser
from fewstep.training.roles.ema import Average
from tests.fewstep.networks.untrained import origin


def _bytes(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("kind", ["adamw", "radam"])
@pytest.mark.parametrize("rank", [None, 3])
def test_weights_gradients_moments_and_average_are_told_to_the_byte(kind, rank):
    teacher = origin("unet")
    parameters = sum(one.numel() for one in teacher.parameters())
    roles = {one.role: one for one in memory_of_run(parameters, adapter_parameters(teacher.network, rank or 3))}
    lora = LoraSettings(rank=rank) if rank else None
    student = make_student(teacher, StudentSettings(lora=lora), 0).denoiser
    optimiser = RoleOptimiser({"student": student}, OptimiserSettings(kind=kind))
    optimiser.train(True)
    for parameter in optimiser.parameters:
        parameter.grad = torch.ones_like(parameter)
    gradients = _bytes(parameter.grad for parameter in optimiser.parameters)
    optimiser.step(0.5, optimiser.norm())
    moments = [value for name, value in optimiser.state().items() if "exp_avg" in name]
    told = roles["student, LoRA" if rank else "student"]
    assert told.trained == sum(one.numel() for one in optimiser.parameters)
    assert (told.weights, told.gradients) == (_bytes(student.parameters()), gradients)
    assert (told.moments, told.average) == (_bytes(moments), _bytes(Average(student, 0.9).weights.values()))
    assert told.total == told.weights + told.gradients + told.moments + told.average
    assert roles["teacher"].total == _bytes(teacher.parameters())
    beside = roles["fake score, LoRA" if rank else "fake score"]
    assert beside.total == told.total - told.average
