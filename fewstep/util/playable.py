"""Files that play: a video as an animated GIF, sound as WAV."""

import io
import wave

import numpy as np
from PIL import Image

from fewstep.util.errors import SettingsError

LONGEST = 256
"""Pixels of a side, above which frames are shrunk where nobody says otherwise."""


def gif(video: np.ndarray, rate: float, longest: int = LONGEST) -> bytes:
    """(F, C, H, W) uint8, C 1 or 3, at `rate` frames per second, again and again. Equal videos give equal bytes."""
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[1] not in (1, 3) or not len(video):
        raise SettingsError(f"a video is played from uint8 frames of 1 or 3 channels, got {video.dtype} {video.shape}")
    frames = [Image.fromarray(frame.transpose(1, 2, 0).squeeze()).convert("RGB") for frame in video]
    for frame in frames:
        frame.thumbnail((longest, longest))
    buffer = io.BytesIO()
    frames[0].save(buffer, format="GIF", save_all=True, append_images=frames[1:], duration=round(1000 / rate), loop=0)
    return buffer.getvalue()


def wav(sound: np.ndarray, rate: float) -> bytes:
    """(C, L) int16 at `rate` numbers per second."""
    if sound.dtype != np.int16 or sound.ndim != 2:
        raise SettingsError(f"sound is played from int16 numbers by channel, got {sound.dtype} {sound.shape}")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(len(sound))
        file.setsampwidth(2)
        file.setframerate(round(rate))
        file.writeframes(np.ascontiguousarray(sound.T).astype("<i2").tobytes())
    return buffer.getvalue()
