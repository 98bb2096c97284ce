"""Number formats of a training step."""

from contextlib import nullcontext
from typing import Any

import torch


def resolve(precision: str, device: torch.device) -> str:
    """The format that "auto" means on this device: bfloat16 autocast where it computes in it, else float32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        has_it = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        there = torch.cpu.get_capabilities() if device.type == "cpu" else {}
        has_it = any(there.get(name) is True for name in ("avx512_bf16", "amx_bf16"))
    return "bfloat16" if has_it else "float32"


def dtype_of(precision: str) -> torch.dtype:
    """The type of weights, draws and data: float64 where that is asked for, to prove a step with; else float32."""
    return torch.float64 if precision == "float64" else torch.float32


def autocast(precision: str, device: torch.device) -> Any:
    """The context a loss is computed in. Under bfloat16 weights, losses and optimiser stay float32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()
