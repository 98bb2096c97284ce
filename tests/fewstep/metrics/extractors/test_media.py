"""Videos and sound by what is made for images: levels of known sines, motion of known videos, what is refused."""

import math

import numpy as np
import pytest
import torch

from fewstep.metrics.extractors.extractor import Extractor
from fewstep.metrics.extractors.log_mel import QUIET, LogMel, mel_filters
from fewstep.metrics.extractors.media import fitted_to, frame_features, motion, seen_as
from fewstep.networks.feature_classifier import fit_components
from fewstep.util.errors import SettingsError

RATE, LENGTH = 16_000, 16_000
VIDEO = (5, 3, 8, 8)


def sine(frequency: float, level: float) -> torch.Tensor:
    return level * torch.sin(2 * math.pi * frequency * torch.arange(LENGTH) / RATE).expand(1, 2, -1)


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    images = torch.rand((64, 3, 8, 8), generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Extractor(fit_components(images, 4), "pca-4", "0" * 64, 4)


@pytest.mark.parametrize("frequency", [400.0, 1500.0, 6000.0])
def test_a_sine_stands_in_the_band_of_its_pitch_at_its_level(frequency):
    picture = LogMel(RATE, LENGTH)
    inner = slice(2, -2)                                        # the ends are padded with silence
    loud, half = (picture(sine(frequency, level))[0, 0, :, inner].mean(-1) for level in (1.0, 0.5))
    mels = len(mel_filters(RATE, picture.size))
    heard = 2595 * math.log10(1 + frequency / 700) / (2595 * math.log10(1 + RATE / 2 / 700)) * (mels + 1) - 1
    assert abs(int(loud.argmax()) - heard) <= 1
    assert loud.max() > 0.9                                     # within 4 dB of full level, by where the filter lies
    assert (loud.max() - half.max()).item() == pytest.approx(2 * 6.0206 / -QUIET, rel=1e-2)
    assert (picture(torch.zeros(1, 2, LENGTH)) == -1).all()


def test_the_shortest_sound_has_a_picture_too():
    picture = LogMel(4, 8)(torch.rand(3, 2, 8))
    assert picture.shape[:2] == (3, 2) and torch.isfinite(picture).all()


def test_a_video_has_the_mean_of_its_frames_and_how_they_change(extractor):
    videos = torch.rand((6, *VIDEO), generator=torch.Generator().manual_seed(1)) * 2 - 1
    seen = seen_as(extractor, "videos", VIDEO, 16.0, by_spectrum=True)
    frames = np.stack([extractor(videos[:, k]) for k in range(VIDEO[0])], axis=1)
    assert np.allclose(seen(videos), frames.mean(1), atol=1e-6)
    (moves,) = motion(extractor, VIDEO)
    assert np.allclose(moves(videos), np.abs(np.diff(frames, axis=1)).mean(1), atol=1e-6)
    assert np.allclose(moves(videos[:, :1].expand(-1, 5, -1, -1, -1)), 0)
    assert moves.seen == "mean change between frames, of pca-4" and motion(extractor, (1, 3, 8, 8)) == []
    stored = ((videos + 1) * 127.5).round().to(torch.uint8)
    assert np.allclose(frame_features(seen, stored, 4), frames, atol=0.1)
    assert frame_features(extractor, stored[:, 0], 4) is None


def test_features_are_fitted_to_frames_and_spectrograms():
    pictures, owners = fitted_to(torch.rand(3, 20, 3, 8, 8), "videos", 16.0)
    assert pictures.shape == (24, 3, 8, 8) and owners.tolist() == sorted([0, 1, 2] * 8)
    pictures, owners = fitted_to(sine(500, 1.0), "sound", RATE)
    assert pictures.shape[:2] == (1, 2) and owners.tolist() == [0]


def test_an_extractor_of_images_is_not_given_sound(extractor):
    assert seen_as(extractor, "images", (3, 8, 8), 0.0, by_spectrum=False) is extractor
    with pytest.raises(SettingsError, match=r"evaluate\.extractors\.pca-4 is made for images, the models make sound"):
        seen_as(extractor, "sound", (2, LENGTH), RATE, by_spectrum=False)
