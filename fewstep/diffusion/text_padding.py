"""Conditions that are as long as their text, in a batch: no longer than the longest text there."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

MASK = "mask"
"""In the keyword of a tensor that tells which tokens are a text's."""


def is_mask(name: str) -> bool:
    """Whether a keyword is that of a mask."""
    return MASK in name


def trimmed(tensors: Mapping[str, Tensor], ragged: Collection[str]) -> Mapping[str, Tensor]:
    """The tensors (N, …) of a batch, those of `ragged` (N, L, …) cut behind the last token that any mask (N, L) among
    them says is a text's: as the pipeline pads them, which not every network is indifferent to."""
    masks = [tensors[name] for name in ragged if is_mask(name) and name in tensors]
    if not masks:
        return tensors
    ends = {mask.shape[1]: int((mask > 0).any(0).nonzero().max()) + 1 if bool((mask > 0).any()) else 1
            for mask in masks}  # fmt: skip
    return {name: value[:, : ends[value.shape[1]]] if name in ragged and value.ndim > 1 and value.shape[1] in ends
            else value for name, value in tensors.items()}  # fmt: skip
