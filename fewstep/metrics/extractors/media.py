"""How what is made for images sees videos and sound: frame by frame, and as pictures of a spectrum.

A video has the mean of its frames' features, and beside them how much each changes from one frame to the next: the
first says what is seen, the second how it moves. Both are one point per video, so all distances, tests and intervals
hold as they do for images.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fewstep.data.medium import SOUND, VIDEOS, Medium, to_unit_range
from fewstep.metrics.extractors.extractor import Extractor
from fewstep.metrics.extractors.log_mel import LogMel
from fewstep.metrics.extractors.sound_encoders import AtRate
from fewstep.metrics.metric_names import MOTION
from fewstep.util.errors import SettingsError

FITTED_FRAMES = 8
"""Frames of a video that features are fitted to, evenly chosen."""
SHOWN_FRAMES = 16
"""Frames of a video, evenly chosen, by which figures of single frames are told."""


class FrameMean(nn.Module):
    """Videos (N, F, C, H, W) in [-1, 1], by what a model says of their frames, which it is given one by one."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def frames(self, videos: Tensor) -> Tensor:
        """(N, F, d): the features of every frame."""
        return torch.stack([self.model.features(frame) for frame in videos.unbind(1)], dim=1)

    def features(self, videos: Tensor) -> Tensor:
        """(N, d): their mean."""
        return self.frames(videos).mean(1)

    def embed(self, videos: Tensor) -> Tensor:
        """(N, k): the mean of the frames' embeddings, of length 1."""
        return functional.normalize(torch.stack([self.model.embed(frame) for frame in videos.unbind(1)]).mean(0), dim=1)

    def forward(self, videos: Tensor) -> Tensor:
        """(N, classes): the mean of the frames' scores."""
        return torch.stack([self.model(frame) for frame in videos.unbind(1)]).mean(0)


class FrameChange(FrameMean):
    """Videos by how they move."""

    def features(self, videos: Tensor) -> Tensor:
        """(N, d): the mean absolute difference of each feature between a frame and the next."""
        return self.frames(videos).diff(dim=1).abs().mean(1)


class OfSpectrum(nn.Module):
    """Sound (N, C, L) in [-1, 1], by what a model of images says of its spectrogram."""

    def __init__(self, model: nn.Module, picture: LogMel):
        super().__init__()
        self.model, self.picture = model, picture

    def features(self, sound: Tensor) -> Tensor:
        return self.model.features(self.picture(sound))

    def embed(self, sound: Tensor) -> Tensor:
        return self.model.embed(self.picture(sound))

    def forward(self, sound: Tensor) -> Tensor:
        return self.model(self.picture(sound))


def fitted_to(samples: Tensor, medium: Medium, rate: float) -> tuple[Tensor, Tensor]:
    """The images (M, C, H, W) that a model of images is fitted to where samples (N, …) are to be seen by it, and the
    number (M,) of the sample that each is of."""
    owners = torch.arange(len(samples))
    if medium == VIDEOS:
        chosen = even_frames(samples.shape[1], FITTED_FRAMES)
        return samples[:, chosen].flatten(0, 1), owners.repeat_interleave(len(chosen))
    return (LogMel(rate, samples.shape[-1])(samples) if medium == SOUND else samples), owners


def even_frames(frames: int, most: int) -> Tensor:
    """Numbers of at most so many frames, evenly spread from the first to the last."""
    return torch.linspace(0, frames - 1, min(frames, most)).round().long().unique()


def require_medium(name: str, made: Medium, medium: Medium) -> None:
    """Raises SettingsError for an extractor of `made` that sees nothing of samples of `medium`: one of sound anything
    else, one of images sound."""
    if made != medium and SOUND in (made, medium):
        raise SettingsError(f"evaluate.extractors.{name} is made for {made}, the models make {medium}",
                            hint="take it out of evaluate.extractors")  # fmt: skip


def seen_as(extractor: Extractor, medium: Medium, shape: tuple[int, ...], rate: float, *,
            by_spectrum: bool) -> Extractor:
    """The extractor for samples of this shape; the same one where their medium, and of sound their rate, is its own.

    by_spectrum: whether one of images may be given spectrograms, as one that was fitted to them.
    Raises SettingsError for an extractor that could only be given what it was not made for.
    """
    if extractor.medium == medium:
        own = getattr(extractor.model, "rate", rate)
        return extractor if own == rate else replace(
            extractor, model=AtRate(extractor.model, rate), seen=f"resampled from {rate:g} to {own:g} per second")
    if not by_spectrum:
        require_medium(extractor.name, extractor.medium, medium)
    if medium == VIDEOS:
        return replace(extractor, model=FrameMean(extractor.model), medium=medium, seen="mean over frames")
    picture = LogMel(rate, shape[-1]).to(extractor.place)
    return replace(extractor, model=OfSpectrum(extractor.model, picture), medium=medium,
                   seen=f"log-mel spectrogram, windows of {picture.size}")  # fmt: skip


def frame_features(extractor: Extractor, stored: Tensor, batch: int) -> np.ndarray | None:
    """(n, f, d): the features of some frames of stored videos (n, F, C, H, W); None for samples without frames."""
    if not isinstance(extractor.model, FrameMean):
        return None
    some = stored[:, even_frames(stored.shape[1], SHOWN_FRAMES)]
    with torch.no_grad():
        return torch.cat([extractor.model.frames(to_unit_range(part).to(extractor.place)).double().cpu()
                          for part in some.split(batch)]).numpy()  # fmt: skip


def motion(extractor: Extractor, shape: tuple[int, ...]) -> list[Extractor]:
    """The features, beside those of `extractor` (of images), that say how videos of this shape move; none for other
    samples, and for videos of one frame."""
    if len(shape) != 4 or shape[0] < 2:
        return []
    return [replace(extractor, model=FrameChange(extractor.model), name=MOTION, medium=VIDEOS, num_classes=0,
                    texts=None, seen=f"mean change between frames, of {extractor.name}")]  # fmt: skip
