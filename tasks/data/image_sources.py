"""Where images come from, and how a picture becomes an array: scikit-learn's digits, or a folder of own images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from tasks.data.image_folder import Item, list_images
from tasks.storage.file_io import package_file, sha256

BUILT_IN = "sklearn/datasets/data/digits.csv.gz"
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
# What Pillow raises for damaged files: OSError in most formats, SyntaxError and ValueError in the header of some.


class ImageSource(Protocol):
    """Images by name, with their classes.

    Attributes:
        items: every image, in the order in which it is taken.
        classes: names of the classes, in the order of their labels; empty without classes.
        comes_from: SHA-256 of files that the images are part of and that no stage's input names.
    """

    items: tuple[Item, ...]
    classes: tuple[str, ...]
    comes_from: dict[str, str]

    def image(self, item: Item) -> Image.Image:
        """The picture, opened. Raises one of what Pillow raises for damaged files."""


class Digits:
    """scikit-learn's handwritten digits: 1,797 images of 8 x 8 pixels in 17 levels of grey, ten classes."""

    classes = tuple(str(digit) for digit in range(10))

    def __init__(self):
        self.comes_from = {BUILT_IN: sha256(package_file(BUILT_IN))}
        data = load_digits()
        self._levels = np.rint(data.images * (255 / 16)).astype(np.uint8)
        self.items = tuple(Item(f"{i:04d}", str(label)) for i, label in enumerate(data.target))

    def image(self, item: Item) -> Image.Image:
        """The digit of this number."""
        return Image.fromarray(self._levels[int(item.name)])


class Folder:
    """Images below a folder, such as what `fewstep data add` brought into data/raw."""

    comes_from: dict[str, str] = {}     # the stage's outside input has its hash

    def __init__(self, folder: Path):
        listing = list_images(folder)
        self.folder, self.items, self.classes = folder, listing.items, listing.classes

    def image(self, item: Item) -> Image.Image:
        """The file, opened."""
        return Image.open(self.folder / item.name)


def readable(image: Callable[[], Image.Image | Tensor]) -> Image.Image | Tensor | None:
    """What `image()` returns; None where the file behind it is damaged."""
    try:
        return image()
    except _UNREADABLE:
        return None


def to_array(image: Image.Image, size: int, channels: int) -> Tensor:
    """An image as uint8 (channels, size, size): the largest centred square, resampled with Lanczos where it differs.

    Transparent parts become white. Raises OSError or ValueError if the file behind `image` is damaged.
    """
    image.load()
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_eight_bits(image)
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
    array = torch.from_numpy(np.array(image))
    return array[None] if channels == 1 else array.permute(2, 0, 1).contiguous()


def _to_eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F":
        raise ValueError("floating-point images have no agreed range; convert them to 8 or 16 bits")
    return Image.fromarray((values.astype(np.int64) * 255 // 65535).clip(0, 255).astype(np.uint8))


def shape_of(source: ImageSource, size: int | None, channels: int | None) -> tuple[int, int] | None:
    """(size, channels): as given or, where None, read from the images' headers. None if no image can be read.

    The size is the shorter side of the first readable image; one channel if every image is grey.
    """
    asked = channels
    for item in source.items:
        if size is not None and channels == 3:
            break
        image = readable(lambda item=item: source.image(item))
        if image is None:
            continue
        with image:
            size = size or min(image.size)
            if asked is None:
                grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I")
                channels = 1 if grey and channels != 3 else 3
        if asked is not None:
            break
    return None if size is None or channels is None else (size, channels)
