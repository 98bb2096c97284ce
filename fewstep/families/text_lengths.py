"""Conditions that are as long as their text: of one length in the encoded set, with what says how much is theirs.

A pipeline pads its prompts to a length of its own, or no further than the longest of a call. In the second case a text
would be another tensor beside another text, so each is recorded alone and padded to the longest there can be, where the
denoiser is told by a mask, or by a list with one tensor for every sample, what belongs to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fewstep.diffusion.network_call import LENGTH
from fewstep.diffusion.text_padding import is_mask
from fewstep.families.call_forms import CallForms, padded
from fewstep.families.recording import first_step
from fewstep.util.errors import SettingsError
from fewstep.util.quiet_libraries import quiet_libraries

_SHORT, _LONG = "tree", " ".join(["tree"] * 1500)


def text_lengths(pipe: Any, arguments: Mapping[str, Any], call: Mapping[str, Any], forms: CallForms,
                 state: str) -> dict[str, Tensor]:  # fmt: skip
    """Of the longest text that the pipeline reads, what its denoiser is given for one sample (1, L, …) by keyword: of
    those that have another length for another text alone. Empty for a pipeline whose prompts all are of one length.

    arguments: of an unguided call for two prompts, which are put in. call: the denoiser's in it, by `forms`. state:
    keyword of the state.
    Raises SettingsError where nothing tells the denoiser which part of such a tensor is a text's own.
    """
    if "prompt" not in arguments:
        return {}
    with quiet_libraries():     # which else tell all that they cut off
        step = first_step(pipe, {**arguments, "prompt": [_SHORT, _LONG]}, 2)
    long = forms.of(step.calls[0])
    found = {name: value[1:].detach().cpu() for name, value in long.items() if name != state
             and isinstance(value, Tensor) and value.shape[:1] == (2,) and _differs(value, call.get(name))}  # fmt: skip
    for name in found:
        if not _told(name, found, long):
            raise SettingsError(
                f"{type(pipe).__name__}: its denoiser's {name!r} is as long as the longest text of a call, "
                f"{tuple(found[name].shape[1:])} with a long one, and no mask tells it which part is a text's own",
                hint="where its call takes an argument that pads texts to one length, set it in encode.arguments",
            )
    return found | {name + LENGTH: long[name + LENGTH][1:] for name in found if name + LENGTH in long}


def own_rows(name: str, value: Tensor, length: int, masks: Mapping[str, Tensor]) -> Tensor:
    """What one sample's (1, n, …) is in the set: (1, length, …), zero but for its own rows.

    masks: (1, n) by keyword, of this call. Raises SettingsError for one that is longer.
    """
    if value.shape[1] > length:
        raise SettingsError(f"{name!r} of a prompt has {value.shape[1]} rows, and {length} for the longest known text",
                            hint="set encode.max_sequence_length, if the pipeline's call takes it")  # fmt: skip
    mask = next((mask for mask in masks.values() if mask.shape[:2] == value.shape[:2]), None)
    if mask is not None and not is_mask(name):
        value = torch.where((mask > 0).reshape(*mask.shape, *(1,) * (value.ndim - 2)), value, torch.zeros_like(value))
    return torch.stack([padded(row, length) for row in value])


def _differs(value: Tensor, other: Any) -> bool:
    """Whether a tensor is of another length than in another call, or stands in one of them only."""
    return not isinstance(other, Tensor) or value.shape[1:] != other.shape[1:]


def _told(name: str, found: Mapping[str, Tensor], long: Mapping[str, Any]) -> bool:
    """Whether the denoiser is told which part of this tensor is a sample's own."""
    if name + LENGTH in long:
        return True
    masks = [long[other] for other in found if is_mask(other) and found[other].ndim == 2
             and found[other].shape[1] == found[name].shape[1]]  # fmt: skip
    return any(int((mask[0] > 0).sum()) < int((mask[1] > 0).sum()) for mask in masks)
