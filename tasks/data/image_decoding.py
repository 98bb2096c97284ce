"""Decoding: from an image file in any of Pillow's modes to 8 bits of grey or colour, with what the picture shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from tasks.data.colour_profiles import UnusableProfile, to_srgb

_GREY = {
    "1": "1", "L": "L", "LA": "LA", "La": "LA",
    "I": "I", "I;16": "I", "I;16L": "I", "I;16B": "I", "I;16N": "I",
}  # fmt: skip
_COLOUR = {
    "P": "RGBA", "PA": "RGBA", "RGB": "RGB", "RGBA": "RGBA", "RGBa": "RGBA", "RGBX": "RGB", "CMYK": "RGB",
    "YCbCr": "RGB", "HSV": "RGB",
}  # fmt: skip
MODES = _GREY | _COLOUR
"""Pillow's modes that are taken, and the mode that each is brought to before 8 bits are made of it."""
_REFUSED = {
    "F": "floating-point images have no agreed range; convert them to 8 or 16 bits",
    "LAB": "Lab colours are not supported; convert it to sRGB",
}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_LEVELS = {"L;2": 85, "L;4": 17, "1": 255, "I;12": 16}  # PNG keys a transparent grey in the file's own levels
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF
_T = TypeVar("_T")


class Unreadable(Exception):
    """A file cannot be decoded; the text says why."""


def read(decode: Callable[[], _T]) -> _T:
    """What `decode` returns; Unreadable, with the reason, where Pillow cannot open or decode the file.

    Pillow's decoders raise nearly every kind of exception for a damaged file, so all are taken as such.
    """
    try:
        return decode()
    except (Unreadable, MemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split()) if not isinstance(error, OSError) else _told(error)
        raise Unreadable(text or type(error).__name__) from error


def _told(error: OSError) -> str:
    if "cannot identify image file" in str(error):
        return "in no format that is known, or damaged at its beginning"
    return error.strerror or " ".join(str(error).split())


def is_grey(image: Image.Image) -> bool:
    """Whether an opened image is grey by its mode. Raises Unreadable for a mode that is not taken."""
    if image.mode not in MODES:
        raise Unreadable(_REFUSED.get(image.mode, f"Pillow's mode {image.mode!r} is not supported"))
    return image.mode in _GREY


def to_array(image: Image.Image, sizes: Sequence[tuple[int, int]], channels: int) -> tuple[Tensor, int]:
    """An image as uint8 (channels, height, width) of one of `sizes`, and which of them: that whose ratio of sides is
    nearest to the image's, the first of equal ones. It shows the largest centred part of that ratio, resampled with
    Lanczos where it differs.

    It stands as its EXIF orientation says, is in sRGB by its colour profile, transparent parts become white, 16 bits
    become 8. Of several frames the first is taken. Raises Unreadable, or what Pillow raises, if the file behind `image`
    is damaged.
    """
    grey, raw_mode = is_grey(image), _raw_mode(image)
    image.load()
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)  # after load, which turns a TIFF itself
    profile, make = image.info.get("icc_profile"), _grey_to_eight_bits if grey else _colour_to_eight_bits
    try:
        image = _on_white(to_srgb(profile)(make(image, raw_mode)))
    except UnusableProfile as error:
        raise Unreadable(str(error)) from None
    image = image.convert("L" if channels == 1 else "RGB")
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
    number = nearest(image.size, sizes)
    height, width = sizes[number]
    if image.size != (width, height):
        if image.width * height > image.height * width:
            across, down = image.height * width / height, image.height
        else:
            across, down = image.width, image.width * height / width
        left, top = (image.width - across) // 2, (image.height - down) // 2
        image = image.resize((width, height), Image.Resampling.LANCZOS, box=(left, top, left + across, top + down))
    array = torch.from_numpy(np.array(image))
    return array[None] if channels == 1 else array.permute(2, 0, 1).contiguous(), number


def nearest(size: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> int:
    """Which of `sizes` (height, width) has the ratio of sides nearest to that of an image of (width, height)."""
    own = math.log(size[0] / size[1])
    return min(range(len(sizes)), key=lambda k: abs(math.log(sizes[k][1] / sizes[k][0]) - own))


def _raw_mode(image: Image.Image) -> str:
    """How a file holds its samples (Pillow's raw mode); it is known only before the image is loaded."""
    arguments = image.tile[0][3] if getattr(image, "tile", None) else None
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else image.mode


def _grey_to_eight_bits(image: Image.Image, raw_mode: str) -> Image.Image:
    """Grey of 8 bits, with alpha as RGBA."""
    if image.mode in ("LA", "La"):
        return _with_alpha(image)
    clear = image.info.get("transparency")
    values = np.asarray(image.convert("L") if image.mode == "1" else image).astype(np.int64)
    shown = values
    if MODES[image.mode] == "I":
        greatest, inverted = _depth(image)
        if values.size and not 0 <= int(values.min()) <= int(values.max()) <= greatest:
            raise Unreadable(f"values {values.min()} … {values.max()}, expected 0 … {greatest}; convert it to 8 bits")
        shown = values * 255 // greatest
        shown = 255 - shown if inverted else shown
    if isinstance(clear, int):
        shown = np.where(values == clear * _LEVELS.get(raw_mode, 1), 255, shown)
    elif clear is not None:
        return _with_alpha(image)
    return Image.fromarray(shown.astype(np.uint8))


def _depth(image: Image.Image) -> tuple[int, bool]:
    """(greatest value, whether it is black) of an image of more than 8 bits."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return 65535, False
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    if image.mode == "I":
        raise Unreadable(f"a TIFF of {bits} bits, signed or longer than 16, has no agreed range; convert it to 8 or "
                         "16 bits")
    return 2**bits - 1, tags.get(_PHOTOMETRIC) == 0


def _colour_to_eight_bits(image: Image.Image, raw_mode: str) -> Image.Image:
    """RGB or RGBA of 8 bits; CMYK as it is, for a profile tells its colours."""
    clear = image.info.get("transparency")
    if image.mode == "RGB" and clear is not None and raw_mode.startswith("RGB;16"):
        raise Unreadable("16 bits of colour with a transparent colour, which Pillow cannot compare; save it with an "
                         "alpha channel")
    if MODES[image.mode] == "RGBA" or (image.mode == "RGB" and clear is not None):
        return _with_alpha(image)
    return image if image.mode == "CMYK" else image.convert("RGB")


def _with_alpha(image: Image.Image) -> Image.Image:
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
