"""Images to be made into shards, by where they come from, and their decoding to equal size and channels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fewstep.util.errors import StageFailed
from fewstep.util.hashing import sha256_file
from tasks.data.image_folder import Item, list_images
from tasks.storage.file_io import package_file

DIGITS_FILE = "sklearn/datasets/data/digits.csv.gz"
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
# What Pillow raises for damaged files: OSError in most formats, SyntaxError and ValueError in the header of some.


class ImageSource:
    """Images in a fixed order.

    Attributes:
        items: name, class and caption of each.
        classes: class names in label order; empty without classes.
        made_from: SHA-256 of the files outside the stage's inputs that they come from, by name.
    """

    items: tuple[Item, ...]
    classes: tuple[str, ...]
    made_from: dict[str, str] = {}

    def open(self, item: Item) -> Image.Image:
        """The image of `item`, decoded when it is asked for. Raises what Pillow raises for a damaged file."""
        raise NotImplementedError

    def size_and_channels(self, size: int | None, channels: int | None) -> tuple[int, int]:
        """What the settings say, or where they leave it open (None) what the images' headers say.

        Returns:
            (size, channels): the shorter side of the first image that can be read; 1 if all images are grey, else 3.

        Raises:
            StageFailed: no image can be read.
        """
        any_channels, found = channels is None, channels
        for item in self.items:
            if size is not None and (found == 3 or not any_channels):
                break
            image = readable(lambda item=item: self.open(item))
            if image is None:
                continue
            with image:
                size = size or min(image.size)
                if any_channels:
                    found = 1 if _is_grey(image) and found != 3 else 3
        if size is None or found is None:
            raise StageFailed(f"none of the {len(self.items)} images can be read, such as {self.items[0].name}")
        return size, found

    def decode(self, item: Item, size: int, channels: int) -> Tensor | None:
        """The image of `item` as (channels, size, size) uint8; None if it cannot be read."""

        def decoded() -> Tensor:
            with self.open(item) as image:
                return to_array(image, size, channels)

        return readable(decoded)


class Digits(ImageSource):
    """scikit-learn's handwritten digits: 1,797 images of 8 x 8 pixels in 17 levels of grey, ten classes."""

    classes = tuple(str(digit) for digit in range(10))

    def __init__(self):
        from sklearn.datasets import load_digits  # seconds to import, for this source alone

        self.made_from = {DIGITS_FILE: sha256_file(package_file(DIGITS_FILE))}
        data = load_digits()
        self._levels = np.rint(data.images * (255 / 16)).astype(np.uint8)
        self.items = tuple(Item(f"{i:04d}", str(label)) for i, label in enumerate(data.target))

    def open(self, item: Item) -> Image.Image:
        return Image.fromarray(self._levels[int(item.name)])


class ImageFolder(ImageSource):
    """A folder or table of image files (tasks.data.image_folder), such as data/raw; it is hashed as an input."""

    def __init__(self, folder: Path):
        listing = list_images(folder)
        self.items, self.classes, self._folder = listing.items, listing.classes, folder

    def open(self, item: Item) -> Image.Image:
        return Image.open(self._folder / item.name)


def readable(read: Callable[[], Image.Image | Tensor]) -> Image.Image | Tensor | None:
    """What `read` returns; None if it raises what Pillow raises for a damaged file."""
    try:
        return read()
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


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA") or image.mode.startswith("I")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point images have no agreed range; convert them to 8 or 16 bits")
    return Image.fromarray((np.asarray(image).astype(np.int64) * 255 // 65535).clip(0, 255).astype(np.uint8))
