"""What is trained of a module: all of it, or for a denoiser with held weights (LoRA, a frozen base) the rest."""

from torch import Tensor, nn

from fewstep.networks.sharded import here, is_sharded


def trained_parameters(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The module's parameters without those that a denoiser holds."""
    held = getattr(module, "held", frozenset())
    return [(name, parameter) for name, parameter in module.named_parameters() if name not in held]


def trained_state(module: nn.Module, keep_vars: bool = False) -> dict[str, Tensor]:
    """The state of the module without the parameters that a denoiser holds: what changes, and so what is stored. Of a
    sharded network this process's rows."""
    held = getattr(module, "held", frozenset())
    return {name: here(value) for name, value in module.state_dict(keep_vars=keep_vars).items() if name not in held}


def sharded_names(module: nn.Module) -> frozenset[str]:
    """Names in `trained_state` of that of which other processes hold further rows."""
    return frozenset(name for name, value in module.state_dict().items() if is_sharded(value))
