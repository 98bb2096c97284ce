"""A frozen network whose weights lie on the CPU and come to the device layer by layer while it is called."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def bring_when_called(network: nn.Module, device: torch.device, shared: Iterable[nn.Parameter] = ()) -> None:
    """Moves the network's parameters, but for `shared` ones, to the CPU, from where a call copies them to `device`.

    A module's copies are there from before its call until nobody needs them, such as a backward pass. What lies on the
    CPU stays the same tensors.
    """
    stay = {id(parameter) for parameter in shared}
    for module in network.modules():
        own = {name: p for name, p in module._parameters.items() if p is not None and id(p) not in stay}
        for parameter in own.values():
            parameter.data = parameter.data.cpu()
        if own:
            _lend(module, own, device)


def _lend(module: nn.Module, own: dict[str, nn.Parameter], device: torch.device) -> None:
    """Has the module hold copies of its `own` parameters on `device` while it is called."""
    places: dict[str, Tensor | None] = module._parameters

    def bring(_module: nn.Module, _values: Any) -> None:
        places.update({name: value.detach().to(device) for name, value in own.items()})

    def take_back(_module: nn.Module, _values: Any, _output: Any) -> None:
        places.update(own)

    module.register_forward_pre_hook(bring)
    module.register_forward_hook(take_back, always_call=True)
