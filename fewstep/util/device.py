"""Where computation runs: one function decides it for every stage."""

from __future__ import annotations

import itertools

import torch
from torch import nn


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(module: nn.Module) -> torch.device:
    """Where the first parameter or buffer of `module` lies; the CPU for a module without any."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def indexed(device: torch.device | str) -> torch.device:
    """`device` as tensors report it: with the number of the GPU. Raises RuntimeError for one that is not here."""
    return torch.empty(0, device=device).device
