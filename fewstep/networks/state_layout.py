"""Where the channels of a state are, and what grid its places form: images, videos, sound, and packed tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.diffusion.denoiser import Denoiser

FRAMES_FIRST = ("CogVideoXTransformer3DModel",)
"""Networks whose states are (frames, channels, height, width)."""
_SIDES = ("num_frames", "height", "width")


@dataclass(frozen=True)
class Layout:
    """Of a state without its batch.

    Attributes:
        channels: the dimension of its channels. count: how many they are.
        grid: sides of its places: (H, W), (T, H, W), (T,); () for a vector. Of packed tokens what was packed, so that
            its product is the number of tokens.
    """

    channels: int
    count: int
    grid: tuple[int, ...]

    def channels_first(self, x: Tensor) -> Tensor:
        """States (N, …) as (N, C, *grid)."""
        return x.movedim(1 + self.channels, 1).reshape(len(x), self.count, *self.grid)


def layout_of(denoiser: Denoiser) -> Layout:
    """The layout of the states of this denoiser."""
    shape = denoiser.sample_shape
    call = getattr(denoiser.adapter, "call", None)
    if len(shape) == 2:
        packed = _packed_grid({} if call is None else call.constants, shape[0])
        if packed is not None:
            return Layout(1, shape[1], packed)
    channels = int(type(denoiser.network).__name__ in FRAMES_FIRST)
    return Layout(channels, shape[channels], (*shape[:channels], *shape[channels + 1 :]))


def tokens_as_grid(tokens: Tensor, network: nn.Module, layout: Layout) -> Tensor:
    """Tokens (N, S, C) of a transformer as (N, C, *grid), the grid being that of its patches of the state; (N, C, S)
    where there are more tokens than patches."""
    sides = tuple(side // patch for side, patch in zip(layout.grid, _patches(network, len(layout.grid)), strict=True))
    if math.prod(sides) != tokens.shape[1]:
        sides = (tokens.shape[1],)
    return tokens.transpose(1, 2).reshape(len(tokens), tokens.shape[2], *sides)


def _packed_grid(constants: Mapping[str, Any], count: int) -> tuple[int, ...] | None:
    """The grid of `count` packed tokens, by their positions or by the sides that the network is told."""
    ids = constants.get("img_ids")
    if isinstance(ids, Tensor) and ids.ndim == 2 and len(ids) == count:
        grid = tuple(len(torch.unique(column)) for column in ids.T)
    elif all(isinstance(constants.get(name), int) for name in _SIDES):
        grid = tuple(constants[name] for name in _SIDES)
    else:
        return None
    grid = tuple(side for side in grid if side > 1) or (1,)
    return grid if math.prod(grid) == count else None


def _patches(network: nn.Module, sides: int) -> tuple[int, ...]:
    """Sides of a patch along the grid, from the configuration of the network."""
    config = getattr(network, "config", {})
    size, frames = config.get("patch_size") or 1, config.get("patch_size_t") or 1
    if isinstance(size, list | tuple):
        return tuple(size) if len(size) == sides else (1,) * sides
    return {2: (size, size), 3: (frames, size, size)}.get(sides, (1,) * sides)
