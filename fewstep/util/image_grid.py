"""Pictures of samples: grids that can be looked at even when an image is 8 pixels wide."""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fewstep.util.errors import SettingsError

_CELL = 36  # pixels that an image is enlarged to at least, by whole factors
_INK, _PAPER, _FAINT = (30, 30, 34), (255, 255, 255), (120, 120, 128)
_GAP, _MARGIN, _BETWEEN = 2, 14, 18


@dataclass(frozen=True)
class Block:
    """A titled part of a picture: `images` (rows, columns, C, H, W) uint8, `note` a second, fainter line."""

    title: str
    images: Tensor
    note: str = ""


def enlarge(image: Tensor, scale: int) -> Image.Image:
    """A (C, H, W) uint8 image with 1 or 3 channels, every pixel a square of `scale`: nothing is smoothed."""
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] not in (1, 3):
        raise SettingsError(f"a picture needs uint8 images of 1 or 3 channels, got {image.dtype} {tuple(image.shape)}")
    pixels = image.permute(1, 2, 0).squeeze(-1).contiguous().numpy()
    picture = Image.fromarray(pixels).convert("RGB")
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def side_by_side(blocks: list[Block], rows: list[str]) -> Image.Image:
    """Blocks next to each other with their titles, each row named (the same class, or the same noise, across blocks).

    Args:
        blocks: at least one; all with the same number of rows and size of image.
        rows: a name for every row, empty names for none.

    Raises:
        SettingsError: blocks and names do not fit together.
    """
    if not blocks or any(len(block.images) != len(rows) for block in blocks):
        raise SettingsError(f"a grid of {len(rows)} named rows needs blocks with as many rows")
    height, width = blocks[0].images.shape[-2:]
    scale = max(1, -(-_CELL // max(height, width)))
    step_x, step_y = width * scale + _GAP, height * scale + _GAP
    title, small = ImageFont.load_default(15), ImageFont.load_default(12)
    names = max((small.getlength(name) for name in rows), default=0)
    left = _MARGIN + (int(names) + 10 if names else 0)
    top = _MARGIN + (40 if any(block.note for block in blocks) else 24)
    widths = [
        max(block.images.shape[1] * step_x, int(title.getlength(block.title)), int(small.getlength(block.note)))
        for block in blocks
    ]
    total = left + sum(widths) + _BETWEEN * (len(blocks) - 1) + _MARGIN
    picture = Image.new("RGB", (total, top + len(rows) * step_y + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(picture)
    for row, name in enumerate(rows):
        y = top + row * step_y + step_y // 2
        draw.text((left - 10, y), name, fill=_FAINT, font=small, anchor="rm")
    for block, breadth in zip(blocks, widths, strict=True):
        draw.text((left, _MARGIN - 4), block.title, fill=_INK, font=title)
        draw.text((left, _MARGIN + 16), block.note, fill=_FAINT, font=small)
        for row, images in enumerate(block.images):
            for column, image in enumerate(images):
                picture.paste(enlarge(image, scale), (left + column * step_x, top + row * step_y))
        left += breadth + _BETWEEN
    return picture


def sheet(images: Tensor, columns: int) -> Image.Image:
    """(N, C, H, W) uint8 images in rows of `columns`, without text; the last row is filled up with white."""
    rows = -(-len(images) // columns)
    missing = rows * columns - len(images)
    filled = torch.cat([images, images.new_full((missing, *images.shape[1:]), 255)])
    return side_by_side([Block("", filled.reshape(rows, columns, *images.shape[1:]))], [""] * rows)


def save(picture: Image.Image, path: Path | BinaryIO) -> None:
    """Writes a PNG; equal pictures give equal bytes."""
    picture.save(path, format="PNG", optimize=False, compress_level=6)
