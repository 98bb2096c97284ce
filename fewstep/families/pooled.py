"""One vector per prompt out of what a pipeline hands to its denoiser: what texts are compared with images by."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fewstep.diffusion.network_call import JOINED, LENGTH, STILL

_POOLED = ("pool", "text_embeds")


def pooled(condition: Mapping[str, Tensor]) -> Tensor | None:
    """(N, D) float32 embeddings of N conditions by call keyword; None where they hold no embedding of a text.

    The pooled embedding where the pipeline has one (SDXL, SD3, Flux), else the mean over the tokens of the widest
    sequence, padding left out where a mask or a length says which it is. What has one token beside sequences of
    several is no text (the length of a sound).
    """
    wide = {name: value for name, value in condition.items()
            if value.is_floating_point() and name not in (JOINED, STILL)}  # fmt: skip
    named = [value for name, value in wide.items() if value.ndim == 2 and any(part in name for part in _POOLED)]
    if named:
        return named[0].float()
    sequences = {name: value for name, value in wide.items() if value.ndim == 3}
    if not sequences:
        return None
    name, tokens = max(sequences.items(), key=lambda item: (item[1].shape[1] > 1, item[1].shape[-1]))
    mask = next((value for other, value in condition.items()
                 if "mask" in other and tuple(value.shape) == tuple(tokens.shape[:2])), None)  # fmt: skip
    if mask is None and name + LENGTH in condition:
        mask = torch.arange(tokens.shape[1], device=tokens.device) < condition[name + LENGTH][:, None]
    weights = torch.ones(tokens.shape[:2]) if mask is None else (mask > 0).float()
    weights = weights.to(tokens.device)[..., None]
    return (tokens.float() * weights).sum(1) / weights.sum(1).clamp(min=1)
