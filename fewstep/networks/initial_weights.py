"""Initial weights keyed by a generator: nothing is drawn from the global one."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from diffusers import ConfigMixin
from torch import nn

from fewstep.util.errors import SettingsError


def build(make: Callable[[], nn.Module], generator: torch.Generator | None = None) -> nn.Module:
    """The module that `make` describes, in evaluation mode, with weights from `generator` (CPU; default: seed 0).

    Of layers that `initialise` knows it draws the weights; other modules draw their own, as their class has it.
    """
    generator = generator or torch.Generator().manual_seed(0)
    with torch.device("meta"):
        module = make()
    if _unknown(module) is None:
        return initialise(module.to_empty(device="cpu"), generator).eval()
    return _drawn(make, generator).eval()


@torch.no_grad()
def initialise(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Draws initial weights from `generator` instead of the global one, in place.

    PyTorch's defaults for linear, convolution, embedding and normalisation layers; a network of diffusers with others
    gets those that its class draws. SettingsError for any other layer with parameters.
    """
    require_known(module)
    if _unknown(module) is not None:
        module.load_state_dict(_drawn(lambda: type(module).from_config(module.config), generator).state_dict())
        return module
    for layer in module.modules():
        if not _has_own(layer):
            continue
        if isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
            if layer.bias is not None:
                bound = 1 / math.sqrt(layer.weight[0].numel())
                layer.bias.uniform_(-bound, bound, generator=generator)
        elif isinstance(layer, nn.Embedding):
            layer.weight.normal_(generator=generator)
        else:
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
    return module


def require_known(module: nn.Module) -> None:
    """Raises SettingsError for a network that `initialise` cannot draw weights for."""
    unknown = _unknown(module)
    if unknown is not None and not isinstance(module, ConfigMixin):
        name, layer = unknown
        raise SettingsError(f"no initial weights are known for {name or 'the network'} ({type(layer).__name__})")


def _drawn(make: Callable[[], nn.Module], generator: torch.Generator) -> nn.Module:
    """What `make` makes on the CPU, with the global generator seeded for that time from `generator`."""
    seed = int(torch.randint(1 << 62, (), generator=generator))
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        return make()


def _unknown(module: nn.Module) -> tuple[str, nn.Module] | None:
    """The first layer whose weights `initialise` cannot draw; None where it can draw all."""
    known = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding)
    for name, layer in module.named_modules():
        normalises = isinstance(layer, (nn.GroupNorm, nn.LayerNorm)) and layer.bias is not None
        if _has_own(layer) and not normalises and not isinstance(layer, known):
            return name, layer
    return None


def _has_own(layer: nn.Module) -> bool:
    return any(True for _ in layer.parameters(recurse=False)) or any(True for _ in layer.buffers(recurse=False))
