"""One picture of a sample, whatever its medium: an image itself, a strip of a video's frames, a sound's spectrogram."""

import torch
from torch import Tensor
from torch.nn import functional

from fewstep.data.medium import SOUND, VIDEOS, medium_of, to_bytes, to_unit_range
from fewstep.metrics.extractors.log_mel import LogMel
from fewstep.metrics.extractors.media import even_frames

STRIP = 4
"""Frames in the picture of a video."""
_LONGEST = 256      # pixels of a side of an image, a frame or a spectrogram; larger ones are shrunk


def portraits(stored: Tensor, rate: float) -> Tensor:
    """(N, C, H, W) uint8 pictures, C 1 or 3, of samples (N, …) as they are stored.

    rate: as ImageSet has it.
    """
    medium = medium_of(stored.shape[1:])
    if medium == SOUND:
        levels = LogMel(rate, stored.shape[-1])(to_unit_range(stored)).mean(1, keepdim=True).flip(2)  # low tones below
        return _shrunk(to_bytes(levels))
    if medium == VIDEOS:
        some = stored[:, even_frames(stored.shape[1], STRIP)]
        frames = _shrunk(some.flatten(0, 1)).unflatten(0, some.shape[:2])
        return torch.cat(list(frames.unbind(1)), dim=-1)
    return _shrunk(stored)


def _shrunk(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    if max(height, width) <= _LONGEST:
        return images
    factor = _LONGEST / max(height, width)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    return to_bytes(functional.interpolate(to_unit_range(images), size, mode="bilinear", antialias=True))
