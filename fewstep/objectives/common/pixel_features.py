"""Features of samples: of a network that the settings name, or of a small one of our own."""

import importlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.diffusion.randomness import generator
from fewstep.networks.unet_mlp import build
from fewstep.util.errors import SettingsError


def named(reference: str) -> Any:
    """What "module:name" stands for. Raises SettingsError if there is no such thing."""
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(f"'{reference}' cannot be imported: {error}", hint="write module:name") from error


def given(reference: str, device: torch.device) -> Callable[[Tensor], list[Tensor]]:
    """The frozen feature network that the function "module:function" returns: x (N, ...) -> features, each (N, C, ...).

    A network that returns one tensor counts as one of one feature.
    """
    network = named(reference)()
    if isinstance(network, nn.Module):
        network = network.to(device).requires_grad_(False).eval()

    def features(x: Tensor) -> list[Tensor]:
        found = network(x)
        return [found] if isinstance(found, Tensor) else list(found)

    return features


class OwnFeatures(nn.Module):
    """Features of samples at a known noise level, from a small network: residual layers for vectors, else convolutions.

    Args:
        sample_shape: of one sample. width: of every feature. seed: of the weights.
    """

    def __init__(self, sample_shape: tuple[int, ...], width: int, seed: int, depth: int = 3):
        super().__init__()
        self.flat = len(sample_shape) != 3
        entries = math.prod(sample_shape) if self.flat else sample_shape[0]

        def layers() -> nn.Module:
            sizes = [entries + 2] + [width] * depth
            if self.flat:
                made = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
            else:  # the first at full resolution, each further one at half
                pairs = enumerate(zip(sizes, sizes[1:], strict=False))
                made = [nn.Conv2d(a, b, 3, 2 if k else 1, 1) for k, (a, b) in pairs]
            return nn.ModuleList(made)

        self.layers = build(layers, generator(seed, "own-features")).train()

    def forward(self, x: Tensor, angle: Tensor) -> list[Tensor]:
        """x (N, ...) of unit scale, angle (N,) = atan(sigma / alpha) -> a feature per layer: (N, C) or (N, C, H, W)."""
        hidden = x.flatten(1) if self.flat else x
        level = torch.stack([angle.cos(), angle.sin()], 1).to(hidden.dtype)
        if not self.flat:
            level = level[:, :, None, None].expand(-1, -1, *hidden.shape[2:])
        hidden, found = torch.cat([hidden, level], 1), []
        for k, layer in enumerate(self.layers):
            change = nn.functional.silu(layer(hidden))
            hidden = hidden + change if self.flat and k else change
            found.append(hidden)
        return found
