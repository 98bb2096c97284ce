"""Files that play: what a player reads of them is what was put in."""

import io
import wave

import numpy as np
import pytest
from PIL import Image

from fewstep.util.errors import SettingsError
from fewstep.util.playable import gif, wav


def test_a_gif_has_the_frames_of_the_video():
    video = np.zeros((4, 3, 6, 10), dtype=np.uint8)
    for number, frame in enumerate(video):
        frame[0, :, : 2 + 2 * number] = 255
    with Image.open(io.BytesIO(gif(video, 10.0))) as played:
        assert (played.n_frames, played.size, played.info["duration"], played.info["loop"]) == (4, (10, 6), 100, 0)
        for number in range(4):
            played.seek(number)
            assert (np.asarray(played.convert("RGB"))[..., 0] == video[number, 0]).all()
    assert gif(video, 10.0) == gif(video, 10.0)


def test_large_frames_are_shrunk():
    with Image.open(io.BytesIO(gif(np.zeros((2, 1, 300, 600), dtype=np.uint8), 8.0))) as played:
        assert played.size == (256, 128)


def test_a_wav_has_the_numbers_of_the_sound():
    sound = np.arange(-6, 6, dtype=np.int16).reshape(2, 6) * 5000
    with wave.open(io.BytesIO(wav(sound, 44_100.0))) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (2, 44_100, 6)
        assert (sound == np.frombuffer(file.readframes(6), "<i2").reshape(6, 2).T).all()


@pytest.mark.parametrize(("made", "given"), [(gif, np.zeros((2, 4, 8, 8), np.uint8)), (wav, np.zeros((2, 8)))])
def test_what_does_not_play_is_named(made, given):
    with pytest.raises(SettingsError, match="is played from"):
        made(given, 16.0)
