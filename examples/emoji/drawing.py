"""Pictures of compositions: an emoji of the font, scaled and placed on a plain background, keyed by seed and number."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from examples.emoji.compositions import COLOURS, LAYOUTS, Composition, character
from fewstep.diffusion.randomness import uniform
from fewstep.util.errors import SettingsError

SIZE = 32
"""Side of a picture in pixels."""
EXTENT = {"large": 28.0, "left": 18.0, "right": 18.0}
"""Longest side of the object in pixels."""
CENTRE = {"large": 16.0, "left": 10.0, "right": 22.0}
"""Its centre from the left in pixels; from above it is 16."""
SHIFT, STRETCH, SHADE = 1.0, 0.06, 8.0
"""How far pictures of one composition differ: place ± pixels, size ± share, background ± of 255 per channel."""

_STRIKE = 109  # the one size of the font's bitmaps
_FINE = 4  # drawn so many times as large, then averaged


@functools.cache
def glyph(font: Path, number: int) -> Image.Image:
    """The emoji of object `number`, RGBA, cut to what is opaque.

    Raises SettingsError for a font that has no bitmap of it.
    """
    try:
        face = ImageFont.truetype(str(font), _STRIKE)
    except OSError as error:
        raise SettingsError(f"{font}: no colour emoji font with bitmaps of {_STRIKE} pixels: {error}") from error
    canvas = Image.new("RGBA", (2 * _STRIKE, 2 * _STRIKE), (0, 0, 0, 0))
    ImageDraw.Draw(canvas).text((10, 10), character(number), font=face, embedded_color=True)
    box = canvas.getbbox()
    if box is None:
        raise SettingsError(f"{font}: has no picture of {character(number)!r} (U+{ord(character(number)):X})")
    return canvas.crop(box)


@functools.cache
def _fine(font: Path, number: int, side: int) -> Image.Image:
    """The emoji with its longest side `side` pixels long, colours multiplied by opacity."""
    one = glyph(font, number)
    factor = side / max(one.size)
    shape = tuple(max(1, round(length * factor)) for length in one.size)
    return one.convert("RGBa").resize(shape, Image.Resampling.BOX if factor < 1 else Image.Resampling.BILINEAR)


def draw(font: Path, composition: Composition, variation: Sequence[float]) -> np.ndarray:
    """The picture (SIZE, SIZE, 3) uint8 of a composition.

    variation: six numbers of −1 … 1: place across and down, size, red, green and blue of the background.
    """
    across, down, size, *shade = variation
    layout = LAYOUTS[composition.layout]
    colour = np.array(list(COLOURS.values())[composition.colour]) + SHADE * np.array(shade)
    canvas = Image.new("RGB", (SIZE * _FINE, SIZE * _FINE), tuple(np.clip(colour.round(), 0, 255).astype(int).tolist()))
    one = _fine(font, composition.object, round(EXTENT[layout] * (1 + STRETCH * size) * _FINE))
    corner = [round((centre + SHIFT * shift) * _FINE - side / 2)
              for centre, shift, side in zip((CENTRE[layout], SIZE / 2), (across, down), one.size, strict=True)]
    background = canvas.crop((*corner, corner[0] + one.size[0], corner[1] + one.size[1]))
    over = np.asarray(one, dtype=np.float32)
    mixed = over[..., :3] + np.asarray(background, dtype=np.float32) * (1 - over[..., 3:] / 255)
    canvas.paste(Image.fromarray(np.clip(mixed.round(), 0, 255).astype(np.uint8)), tuple(corner))
    return np.asarray(canvas.reduce(_FINE))


def draw_all(font: Path, compositions: Sequence[Composition], seed: int, purpose: str) -> np.ndarray:
    """Pictures (N, SIZE, SIZE, 3) uint8; how number k varies is a function of (seed, purpose, k)."""
    count = len(compositions)
    amounts = (2 * uniform(seed, purpose, range(6 * count)).numpy() - 1).reshape(count, 6)
    pictures = np.empty((count, SIZE, SIZE, 3), dtype=np.uint8)
    for k, (composition, variation) in enumerate(zip(compositions, amounts, strict=True)):
        pictures[k] = draw(font, composition, variation)
    return pictures
