"""The teacher as it is run: precision, compilation, no gradients."""

import copy
import warnings
from collections.abc import Callable

import torch
from torch import nn

from fewstep.diffusion.denoiser import Denoiser
from fewstep.trajectories.set_plan import SetPlan
from fewstep.util.compiling import missing
from fewstep.util.device import device_of
from fewstep.util.errors import SettingsError
from fewstep.util.torch_threads import one_thread

_PRECISION = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def prepare(denoiser: Denoiser, plan: SetPlan, warn: Callable[[str], None] = warnings.warn) -> Denoiser:
    """The teacher on the device and with the precision and compilation that ``plan`` asks for.

    ``denoiser`` stays where and as it is. A compiled network is compiled here, for batches of one record, so that
    workers only run it. What is prepared for sets that differ in the size of their samples shares its weights.
    See `compiled`.
    """
    return compiled(placed(denoiser, plan), plan, warn)


def placed(denoiser: Denoiser, plan: SetPlan) -> Denoiser:
    """The teacher on the plan's device and in its precision, for evaluation; itself where it is so already."""
    dtype = _PRECISION[plan.settings.precision]
    cast = any(parameter.dtype != dtype for parameter in denoiser.network.parameters())
    if not cast and not denoiser.network.training and device_of(denoiser) == plan.device:
        return denoiser
    teacher = copy.deepcopy(denoiser)
    if cast:
        # nn.Module's own conversion: diffusers' override prints a remark about modules that it keeps in float32.
        nn.Module.to(teacher.network, dtype)
    teacher.to(plan.device).network.eval()
    return teacher


def compiled(teacher: Denoiser, plan: SetPlan, warn: Callable[[str], None] = warnings.warn) -> Denoiser:
    """The same weights as a denoiser of its own, compiled where ``plan`` asks for it.

    warn: told where that was left open and this machine cannot; the network then runs as it is. Raises SettingsError
    where it was asked for and is not possible here.
    """
    teacher, modules = copy.copy(teacher), dict(teacher._modules)
    teacher._modules = modules      # compiling replaces its network
    if plan.settings.compile:
        plain = teacher.network
        reason = missing(plan.device.type) or _compile(teacher, plan)
        if reason is not None and not plan.automatic:
            raise SettingsError(f"trajectories.compile: true needs {reason}", hint="set trajectories.compile: auto")
        if reason is not None:
            teacher.network = plain
            warn(f"trajectories: the set is long enough to compile the network for, but that needs {reason}; here it "
                 "runs as it is, and the set says so")  # fmt: skip
    return teacher


def is_compiled(teacher: Denoiser) -> bool:
    """Whether the network is compiled."""
    return hasattr(teacher.network, "_orig_mod")    # torch._dynamo, which knows its class, takes a second to load


def _compile(teacher: Denoiser, plan: SetPlan) -> str | None:
    """Compiles the network, and calls it once; what it would need for that, None where it has all."""
    from torch._dynamo.exc import TorchDynamoException  # takes a second to load
    from torch._inductor import config

    # The whole network or an error: a part that fell back to the interpreter would give other bits.
    teacher.network = torch.compile(teacher.network, dynamic=False, fullgraph=True)
    size = plan.record_size
    # One thread, as the workers have: the number is compiled into the kernels. Folding the weights into them is worth a
    # tenth on a CPU; CUDA graphs would be tied to one thread. The input is made in inference mode, as the workers' is,
    # or they would compile again.
    with (
        one_thread(),
        config.patch(freezing=plan.device.type == "cpu"),
        warnings.catch_warnings(),
        torch.inference_mode(),
    ):
        warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")
        x = torch.zeros((size, *plan.shape), device=plan.device)
        condition = teacher.any_condition(size, plan.device) if plan.num_classes else None
        try:
            teacher.x0(x, float(teacher.process.t_max), condition, plan.settings.guidance)
        except TorchDynamoException as error:
            return f"a network that torch.compile understands ({str(error).strip().splitlines()[0]})"
    return None
