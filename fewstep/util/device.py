"""Where computation runs: one function decides it for every stage."""

from __future__ import annotations

import itertools
import os
from functools import cache

import torch
from torch import Tensor, nn


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if torch.version.cuda is not None:
        settle_arithmetic()
    return torch.device("cuda")


@cache
def settle_arithmetic() -> None:
    """For all that this process computes on GPUs: the same bits when it is computed again, and float32 without TF32's
    mantissas of 10 bits in the place of 23; who wants speed asks for bfloat16.

    An operation that has no deterministic form is done nevertheless, and warns.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")     # what cuBLAS needs to be deterministic
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False     # a debugging aid that costs a kernel a tensor
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def device_of(module: nn.Module) -> torch.device:
    """Where the first parameter or buffer of `module` lies; the CPU for a module without any."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def sent(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor on `device`, in this format. A copy from the CPU to a GPU is not waited for, which an ordinary one is,
    and with it all that the GPU was asked for before."""
    if tensor.device.type != "cpu" or device.type == "cpu":
        return tensor.to(device, dtype)
    tensor = tensor.to(dtype=dtype)
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def number_on(device: torch.device, value: Tensor | float, dtype: torch.dtype | None = None) -> Tensor:
    """The number (or tensor) as a tensor on `device`: without waiting for it."""
    if isinstance(value, Tensor):
        return sent(value, device, dtype)
    return torch.full((), value, dtype=dtype, device=device)


def indexed(device: torch.device | str) -> torch.device:
    """`device` as tensors report it: with the number of the GPU. Raises RuntimeError for one that is not here."""
    return torch.empty(0, device=device).device
