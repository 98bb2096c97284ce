"""A frozen network with a small one beside it, the guide, which steers it from its input on.

The guide sees the same x, time and label, and what it puts out is added to the output of the network's first layer. It
ends in zeros, so that the network starts as it was. Both stay networks of the original kind: the addition is written as
further channels of the input, which the first layer passes on as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fewstep.diffusion.network_inputs import Given
from fewstep.networks.unet_mlp import ResidualMLP
from fewstep.util.errors import SettingsError

STATE = "sample"
"""The keyword by which UNets take x."""


class GuidedNetwork(nn.Module):
    """base(x joined by guide(x)); called as a base is called, x first or as `sample`. Further inputs go to the guide,
    labels to both.

    Args:
        base: takes the channels (or units) of x and, after them, those of the guide's output; see `open_input`.
        guide: of the same kind.
    """

    def __init__(self, base: nn.Module, guide: nn.Module):
        super().__init__()
        self.base, self.guide = base, guide

    def forward(self, *values: Any, **named: Any) -> Any:
        added = self.guide(*values, **named)
        added = added[0] if isinstance(added, tuple) else added
        x = values[0] if values else named[STATE]
        x = torch.cat([x if added.ndim == x.ndim else x.flatten(1), added], 1)
        named = {name: _plain(value) for name, value in named.items()}
        if values:
            return self.base(x, *(_plain(value) for value in values[1:]), **named)
        return self.base(**{**named, STATE: x})


def _plain(value: Any) -> Any:
    return value.labels if isinstance(value, Given) else value


def hidden_channels(network: nn.Module) -> int:
    """How many channels (or units) leave the first layer. Raises SettingsError for a network that is not ours."""
    if isinstance(network, ResidualMLP):
        return network.config["width"]
    if not hasattr(network, "conv_in"):
        kind = type(network).__name__
        raise SettingsError(f"a {kind} takes no guide, which enters by the first convolution of a UNet")
    return network.config["block_out_channels"][0]


@torch.no_grad()
def open_input(network: nn.Module) -> nn.Module:
    """Gives the first layer as many further inputs as it has outputs, each added to one of them; in place."""
    if isinstance(network, ResidualMLP):
        old = network.enter
        wide = nn.Linear(old.in_features + old.out_features, old.out_features, device=old.weight.device)
        network.config["inputs"] = (network.config["inputs"] or network.size) + old.out_features
        network.enter = wide
    else:
        old = network.conv_in
        wide = nn.Conv2d(old.in_channels + old.out_channels, old.out_channels, old.kernel_size, padding=old.padding,
                         device=old.weight.device)  # fmt: skip
        network.register_to_config(in_channels=wide.in_channels)
        network.conv_in = wide
    weight = torch.zeros_like(wide.weight)
    count = old.weight.shape[1]
    weight[:, :count] = old.weight
    centre = weight[:, count:] if weight.ndim == 2 else weight[:, count:, weight.shape[2] // 2, weight.shape[3] // 2]
    centre.fill_diagonal_(1.0)
    wide.weight.copy_(weight)
    wide.bias.copy_(old.bias)
    return network


@torch.no_grad()
def silence(network: nn.Module) -> nn.Module:
    """Sets the last layer to zero, in place."""
    last = network.leave if isinstance(network, ResidualMLP) else network.conv_out
    last.weight.zero_()
    last.bias.zero_()
    return network
