"""Gradient checkpointing: activations within a block are computed anew in the backward pass instead of being kept.

Memory falls with the depth of the network, for about a third more computation; gradients are equal bit for bit.
"""

from __future__ import annotations

from diffusers import ModelMixin
from torch import nn

from fewstep.util.errors import SettingsError


def checkpoint_blocks(network: nn.Module, on: bool = True) -> None:
    """Turns gradient checkpointing on or off for the blocks of a network of diffusers, or of several in one.

    Raises SettingsError for turning it on where no network in it has it.
    """
    parts = [part for part in network.modules() if isinstance(part, ModelMixin)]
    able = [part for part in parts if part._supports_gradient_checkpointing]
    if on and not able:
        raise SettingsError(f"a {type(network).__name__} has no gradient checkpointing",
                            hint="turn gradient_checkpointing off")  # fmt: skip
    for part in able:
        if on:
            part.enable_gradient_checkpointing()
        else:
            part.disable_gradient_checkpointing()


def is_checkpointed(network: nn.Module) -> bool:
    """Whether a part of the network computes its activations anew in the backward pass."""
    return any(getattr(part, "gradient_checkpointing", False) for part in network.modules())
