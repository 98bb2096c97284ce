"""Grids: pixels stay squares, rows and blocks stand where they should, bytes repeat."""

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.util.errors import SettingsError
from fewstep.util.image_grid import Block, enlarge, save, sheet, side_by_side


def digits(rows: int, columns: int, channels: int = 1) -> torch.Tensor:
    return torch.randint(0, 255, (rows, columns, channels, 8, 8), generator=torch.Generator().manual_seed(0),
                         dtype=torch.uint8)


def test_pixels_become_squares():
    image = digits(1, 1)[0, 0]
    big = np.asarray(enlarge(image, 5))
    assert big.shape == (40, 40, 3)
    assert np.array_equal(big[2::5, 2::5, 0], image[0].numpy())
    assert np.array_equal(big[0], big[4])


@pytest.mark.parametrize("channels", [1, 3])
def test_blocks_rows_and_names(channels, tmp_path):
    left, right = digits(3, 4, channels), digits(3, 2, channels)
    picture = side_by_side([Block("student", left, "1 step"), Block("teacher", right, "16 steps")], ["0", "1", "2"])
    pixels = np.asarray(picture)
    for image in (left[0, 0], left[2, 3], right[2, 1]):
        wanted = np.asarray(enlarge(image, 5))
        windows = np.lib.stride_tricks.sliding_window_view(pixels, wanted.shape)[:, :, 0]
        assert (windows == wanted).all(axis=(2, 3, 4)).any()
    save(picture, tmp_path / "a.png")
    save(side_by_side([Block("student", left, "1 step"), Block("teacher", right, "16 steps")], ["0", "1", "2"]),
         tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert Image.open(tmp_path / "a.png").size == picture.size


def test_a_sheet_fills_its_last_row():
    assert sheet(digits(1, 7)[0], 3).size == sheet(digits(1, 9)[0], 3).size


def test_what_cannot_be_shown_is_refused():
    with pytest.raises(SettingsError, match="uint8"):
        enlarge(torch.zeros(1, 8, 8), 2)
    with pytest.raises(SettingsError, match="as many rows"):
        side_by_side([Block("a", digits(2, 2))], ["one"])
