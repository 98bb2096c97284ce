"""What a sample is, an image, a video or sound, told by its shape; and the integers that it is kept and played as."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fewstep.util.errors import SettingsError

Medium = Literal["images", "videos", "sound"]
IMAGES, VIDEOS, SOUND = "images", "videos", "sound"
QUANTISED: dict[Medium, str] = {IMAGES: "8 bit", VIDEOS: "8 bit", SOUND: "16 bit"}
"""How fine the integers are that samples are kept as, in words."""
_BY_SIDES: dict[int, Medium] = {2: SOUND, 3: IMAGES, 4: VIDEOS}
_LOUDEST = 32767


def medium_of(shape: Sequence[int]) -> Medium:
    """What samples of this shape are: sound (C, L), images (C, H, W) or videos (F, C, H, W).

    Raises SettingsError for another number of sides.
    """
    if len(shape) not in _BY_SIDES:
        raise SettingsError(f"samples of shape {tuple(shape)} are neither images nor videos nor sound")
    return _BY_SIDES[len(shape)]


def stored_type(shape: Sequence[int]) -> torch.dtype:
    """The integers that samples of this shape are kept as: those of a picture's file, or of a sound's."""
    return torch.int16 if medium_of(shape) == SOUND else torch.uint8


def to_unit_range(stored: Tensor) -> Tensor:
    """uint8 0…255 → float32 in [−1, 1]: v / 127.5 − 1, exact at both ends; int16 → v / 32767."""
    if stored.dtype == torch.int16:
        return stored.to(torch.float32).div_(_LOUDEST)
    return stored.to(torch.float32).div_(127.5).sub_(1.0)


def to_bytes(images: Tensor) -> Tensor:
    """Floats, clipped to [−1, 1] → uint8 0…255 by round((v + 1) · 127.5); the inverse of :func:`to_unit_range`."""
    return images.to(torch.float32).clamp(-1, 1).add(1.0).mul(127.5).round().to(torch.uint8)


def to_stored(samples: Tensor) -> Tensor:
    """Samples (N, …), clipped to [−1, 1] → the integers that their medium is kept as; the inverse of
    :func:`to_unit_range`."""
    if stored_type(samples.shape[1:]) == torch.uint8:
        return to_bytes(samples)
    return samples.to(torch.float32).clamp(-1, 1).mul(_LOUDEST).round().to(torch.int16)
