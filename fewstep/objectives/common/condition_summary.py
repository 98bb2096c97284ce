"""What a condition says, as one vector: for terms that compare conditions or learn from them beside the network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fewstep.diffusion.denoiser import Denoiser
from fewstep.util.errors import SettingsError


def summary_of(denoiser: Denoiser, condition: Tensor) -> Tensor:
    """(N, D) float32 of rows (N,) of the denoiser's table: by field the mean over its tokens, those only that its mask
    leaves, at mean 0 and variance 1 over its channels.

    Raises SettingsError for a denoiser without a table, or whose conditions hold no vectors.
    """
    if denoiser.table is None:
        raise SettingsError("only conditions that are rows of a table have a summary")
    fields = denoiser.table.gather(condition)
    parts = [_pooled(value.float(), _mask(fields, value)) for name, value in fields.items()
             if value.is_floating_point() and value[0].numel() > 1 and not _is_mask(name)]  # fmt: skip
    if not parts:
        raise SettingsError(f"conditions of {', '.join(fields) or 'no fields'} hold no vectors to be summed up")
    return torch.cat([(part - part.mean(1, keepdim=True)) / part.std(1, keepdim=True).clamp_min(1e-6)
                      for part in parts], 1)  # fmt: skip


def _pooled(value: Tensor, mask: Tensor | None) -> Tensor:
    """Tokens (N, L, D), maps (N, C, …) or vectors (N, D) -> (N, D)."""
    if value.ndim == 2:
        return value
    if value.ndim > 3:
        return value.flatten(2).mean(2)
    if mask is None:
        return value.mean(1)
    return (value * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)


def _mask(fields: Mapping[str, Tensor], value: Tensor) -> Tensor | None:
    """The mask (N, L) of tokens (N, L, D), if there is one."""
    found = [mask for name, mask in fields.items() if _is_mask(name) and mask.shape == value.shape[:2]]
    return found[0].float() if found else None


def _is_mask(name: str) -> bool:
    return name.endswith("mask")
