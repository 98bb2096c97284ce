"""The teacher as it is run: precision, compilation, no gradients."""

import copy

import torch
from torch import nn

from fewstep.denoiser import Denoiser
from fewstep.trajectories.plan import SetPlan

_PRECISION = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def prepare(denoiser: Denoiser, plan: SetPlan) -> Denoiser:
    """The teacher with the weights' precision and the compilation that ``plan`` asks for; ``denoiser`` stays as it is.

    A compiled network is compiled here, for batches of one record, so that workers only run it.
    """
    teacher = copy.copy(denoiser)
    teacher._modules = dict(denoiser._modules)
    network = denoiser.network
    dtype = _PRECISION[plan.settings.precision]
    if any(parameter.dtype != dtype for parameter in network.parameters()):
        # nn.Module's own conversion: diffusers' override prints a remark about modules that it keeps in float32.
        network = nn.Module.to(copy.deepcopy(network), dtype)
    if network.training:
        network = copy.deepcopy(network) if network is denoiser.network else network
        network.eval()
    teacher.network = network
    if plan.settings.compile:
        _compile(teacher, plan)
    return teacher


def _compile(teacher: Denoiser, plan: SetPlan) -> None:
    from torch._inductor import config

    teacher.network = torch.compile(teacher.network, dynamic=False)
    size = plan.settings.record_size
    x = torch.zeros((size, *plan.shape), device=plan.device)
    condition = torch.zeros(size, dtype=torch.int64, device=plan.device) if plan.num_classes else None
    # Folding the weights into the kernels is worth a tenth on a CPU; CUDA graphs would be tied to one thread.
    with config.patch(freezing=plan.device.type == "cpu"), torch.inference_mode():
        teacher.x0(x, float(teacher.process.t_max), condition, plan.settings.guidance)
