"""Networks of our own making: a small diffusers UNet, and a residual MLP for vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fewstep.networks.initial_weights import build
from fewstep.util.errors import SettingsError


def new_unet(
    size: int,
    channels: int,
    num_classes: int = 0,
    block_out_channels: Sequence[int] = (32, 64),
    layers: int = 1,
    null_class: bool = True,
    generator: torch.Generator | None = None,
    groups: int = 0,
) -> nn.Module:
    """A diffusers UNet2DModel of convolutions, with attention in the middle block only.

    Args:
        size: height and width of the images; divisible by 2 for each block but the last.
        channels: of the images. num_classes: 0 for unconditional.
        block_out_channels: width per resolution, each a multiple of 8. layers: residual blocks per resolution.
        null_class: adds label `num_classes`, "no condition", for guidance.
        generator: draws the weights; by default one seeded with 0. The global generator is not touched.
        groups: of classes, whose labels follow.
    Raises SettingsError for widths or sizes that do not fit.
    """
    from diffusers import UNet2DModel  # loads transformers

    widths = tuple(block_out_channels)
    if not widths or any(width % 8 or width <= 0 for width in widths):
        raise SettingsError(f"block_out_channels must be positive multiples of 8, got {list(widths)}")
    if size % 2 ** (len(widths) - 1):
        raise SettingsError(f"images of {size} pixels cannot be halved {len(widths) - 1} times")
    return build(
        lambda: UNet2DModel(
            sample_size=size,
            in_channels=channels,
            out_channels=channels,
            layers_per_block=layers,
            block_out_channels=widths,
            norm_num_groups=_groups(min(widths)),
            down_block_types=("DownBlock2D",) * len(widths),
            up_block_types=("UpBlock2D",) * len(widths),
            num_class_embeds=(num_classes + bool(null_class) + groups) or None if num_classes else None,
        ),
        generator,
    )


def _groups(width: int) -> int:
    """Groups of the normalisation: 8, or fewer so that none holds less than 4 channels.

    A group of one channel would subtract the time and class embedding, which is constant over a channel.
    """
    return min(8, 2 ** ((width // 4).bit_length() - 1))


class ResidualMLP(nn.Module):
    """A denoiser network for small vectors: residual layers with time and class embedding, for the adapter `Angle`.

    The coordinates come in with their sines and cosines (Tancik et al., Fourier features let networks learn
    high-frequency functions, 2006.10739): the one-step map of a mixture has edges as sharp as its modes are narrow.

    Args:
        sample_shape: shape of one sample. labels: number of labels, the null label included; 0 for none.
        width, depth: of the residual layers. middle: whether there is a last one of its own, the middle block.
        inputs, outputs: numbers that go in and come out, by default those of a sample, which are the first to go in.
    """

    time_octaves = 3
    """Few: fast waves make the time derivative noise, and training on it explodes."""
    octaves = 4
    """Of the coordinates, whose size is that of unit variance."""

    def __init__(
        self,
        sample_shape: Sequence[int],
        labels: int = 0,
        width: int = 128,
        depth: int = 3,
        middle: bool = True,
        inputs: int | None = None,
        outputs: int | None = None,
    ):
        super().__init__()
        self.config = {"sample_shape": list(sample_shape), "labels": labels, "width": width, "depth": depth,
                       "middle": middle, "inputs": inputs, "outputs": outputs}  # fmt: skip
        self.size = math.prod(sample_shape)
        self.embed_time = nn.Linear(2 * self.time_octaves + 2, width)
        self.embed_label = nn.Embedding(labels, width) if labels else None
        self.enter = nn.Linear((inputs or self.size) + 2 * self.octaves * self.size, width)
        self.blocks = nn.ModuleList(_Residual(width) for _ in range(depth))
        self.mid_block = _Residual(width) if middle else None
        self.leave = nn.Linear(width, outputs or self.size)

    def forward(self, x: Tensor, angle: Tensor, labels: Tensor | None = None) -> Tensor:
        """x (N, …) of unit variance, angle (N,) in [0, π/2], labels (N,) int64 or what embed_label takes → v (N, …)."""
        embedding = self.embed_time(time_features(angle, self.time_octaves))
        if self.embed_label is not None and labels is not None:
            embedding = embedding + self.embed_label(labels)
        flat = x.flatten(1)
        own, added = flat[:, : self.size], flat[:, self.size :]
        hidden = self.enter(torch.cat([own, waves(own, self.octaves), added], dim=1))
        for block in (*self.blocks, *([self.mid_block] if self.mid_block is not None else [])):
            hidden = block(hidden + embedding)
        shape = [self.config["outputs"]] if self.config["outputs"] else self.config["sample_shape"]
        return self.leave(hidden).reshape(len(x), *shape)


def time_features(angle: Tensor, octaves: int) -> Tensor:
    """Features (N, 2 * octaves + 2) of angles (N,) in [0, pi/2]: sines and cosines of octaves, and the noise level."""
    level = torch.stack([angle.sin().clamp(min=1e-3).log(), angle.cos().clamp(min=1e-3).log()], dim=1)
    return torch.cat([waves(angle[:, None], octaves), level], dim=1)


def waves(x: Tensor, octaves: int) -> Tensor:
    """Sines, then cosines, of x (N, D) at the angular frequencies 1, 2, 4, …: (N, 2 * octaves * D)."""
    phases = (x[:, :, None] * 2.0 ** torch.arange(octaves, dtype=x.dtype, device=x.device)).flatten(1)
    return torch.cat([phases.sin(), phases.cos()], dim=1)


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, 2 * width)
        self.second = nn.Linear(2 * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.second(nn.functional.silu(self.first(self.norm(hidden))))
