"""Features of samples: of a network that the settings name, or of a small one of our own."""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fewstep.diffusion.randomness import generator
from fewstep.networks.initial_weights import build
from fewstep.networks.state_layout import Layout
from fewstep.util.errors import SettingsError

if TYPE_CHECKING:
    from fewstep.training.step.step_context import Step


def named(reference: str) -> Any:
    """What "module:name" stands for. Raises SettingsError if there is no such thing."""
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(f"'{reference}' cannot be imported: {error}", hint="write module:name") from error


def given(reference: str, step: "Step") -> Callable[[Tensor], list[Tensor]]:
    """States (N, ...) -> features, each (N, C, ...), of the frozen network that the function "module:function" returns.

    It is given samples: where states are latents, what they are decoded to. A network that returns one tensor counts as
    one of one feature.
    """
    network, student = named(reference)(), step.student
    if isinstance(network, nn.Module):
        network = network.to(step.draws.rows.device).requires_grad_(False).eval()

    def features(x: Tensor) -> list[Tensor]:
        found = network(student.decoded(x))
        return [found] if isinstance(found, Tensor) else list(found)

    return features


class OwnFeatures(nn.Module):
    """Features of samples at a known noise level, from a small network: residual layers for vectors, else convolutions
    over the places of an image, a video or a sound.

    Args:
        layout: of one sample; further ones may have other sides. width: of every feature. seed: of the weights.
    """

    def __init__(self, layout: Layout, width: int, seed: int, depth: int = 3):
        super().__init__()
        self.flat = not layout.grid
        convolution = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}.get(len(layout.grid))
        if convolution is None and not self.flat:
            raise SettingsError(f"no features of our own are known for samples on a grid of {len(layout.grid)} sides",
                                hint="name an `extractor`")  # fmt: skip

        def layers() -> nn.Module:
            sizes = [layout.count + 2] + [width] * depth
            if self.flat:
                made = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
            else:  # the first at full resolution, each further one at half
                pairs = enumerate(zip(sizes, sizes[1:], strict=False))
                made = [convolution(a, b, 3, 2 if k else 1, 1) for k, (a, b) in pairs]
            return nn.ModuleList(made)

        self.layers = build(layers, generator(seed, "own-features")).train()

    def forward(self, x: Tensor, angle: Tensor, layout: Layout) -> list[Tensor]:
        """x (N, ...) of unit scale in this layout, angle (N,) = atan(sigma / alpha) -> a feature per layer: (N, C,
        *grid)."""
        hidden = layout.channels_first(x)
        level = torch.stack([angle.cos(), angle.sin()], 1).to(hidden.dtype)
        if not self.flat:
            level = level.unflatten(1, (2, *[1] * len(layout.grid))).expand(-1, -1, *hidden.shape[2:])
        hidden, found = torch.cat([hidden, level], 1), []
        for k, layer in enumerate(self.layers):
            change = nn.functional.silu(layer(hidden))
            hidden = hidden + change if self.flat and k else change
            found.append(hidden)
        return found
