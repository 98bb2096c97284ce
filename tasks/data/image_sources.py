"""Images to be made into shards, by where they come from, and their decoding to equal size and channels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from fewstep.data.prompt import Prompt
from fewstep.data.tables import shown
from fewstep.util.errors import StageFailed
from fewstep.util.hashing import sha256_file
from tasks.config.schema import SIZES
from tasks.data import digits_facts
from tasks.data.image_decoding import Unreadable, is_grey, read, to_array
from tasks.data.image_folder import Item, list_images
from tasks.storage.file_io import package_file

DIGITS_FILE = "sklearn/datasets/data/digits.csv.gz"


@dataclass(frozen=True)
class Shape:
    """Size and channels that all images get, and what is to be said about it (None where all have that size)."""

    size: int
    channels: int
    remark: str | None = None


class ImageSource:
    """Images in a fixed order.

    Attributes:
        items: name, class and caption of each.
        classes: class names in label order; empty without classes.
        left_out: what of the folder was not taken, in words; None where all was.
        prompts: prompts without an image.
        made_from: SHA-256 of the files outside the stage's inputs that they come from, by name.
    """

    items: tuple[Item, ...]
    classes: tuple[str, ...]
    left_out: str | None = None
    prompts: tuple[Prompt, ...] = ()
    made_from: dict[str, str] = {}

    def open(self, item: Item) -> Image.Image:
        """The image of `item`, decoded when it is asked for. Raises what Pillow raises for a damaged file."""
        raise NotImplementedError

    def given(self, item: Item, size: tuple[int, int]) -> dict[str, Tensor]:
        """Further images of `item` by column, at the size (height, width) that it has: of three channels, a mask of
        one, uint8. Raises Unreadable, with name and reason."""
        return {}

    def shape(self, size: int | None, channels: int | None) -> Shape:
        """What the settings say, or where they leave it open (None) what the images' headers say.

        The size is the shorter side that most images have, the smaller of two that are as many; channels are 1 if all
        images are grey, else 3. Without images the size is 0 where nothing is set.

        Raises:
            StageFailed: no image can be read, or the size that most have is none that data.size may be.
        """
        if not self.items or size is not None and channels is not None:
            return Shape(size or 0, channels or 3)
        sides: Counter[int] = Counter()
        all_grey, reason = True, ""
        for item in self.items:
            try:
                side, grey = read(lambda item=item: self._header(item))
            except Unreadable as error:
                reason = reason or f"{shown(item.name)}: {error}"
                continue
            sides[side] += 1
            all_grey = all_grey and grey
            if size is not None and not all_grey:
                break
        if not sides:
            raise StageFailed(f"none of the {len(self.items)} images can be read, such as {reason}")
        channels = channels or (1 if all_grey else 3)
        if size is not None:
            return Shape(size, channels)
        least, greatest = SIZES
        size = min(sides, key=lambda side: (-sides[side], side))
        if not least <= size <= greatest:
            raise StageFailed(f"most images ({sides[size]} of {sides.total()}) have a shorter side of {size} pixels, "
                              f"which data.size, {least} … {greatest}, cannot be",
                              hint="set data.size, to which they are resampled")  # fmt: skip
        others = sides.total() - sides[size]
        return Shape(size, channels, None if not others else
                     f"the size is {size}, the shorter side of {sides[size]} of {sides.total()} images; {others} of "
                     f"{min(sides)} … {max(sides)} pixels are resampled (data.size sets another)")  # fmt: skip

    def _header(self, item: Item) -> tuple[int, bool]:
        with self.open(item) as image:
            return min(image.size), is_grey(image)

    def decode(self, item: Item, sizes: Sequence[tuple[int, int]], channels: int) -> tuple[Tensor, int]:
        """The image of `item` as (channels, height, width) uint8, and which of these sizes (height, width) it got: the
        one nearest to its own shape. Raises Unreadable, with the reason."""

        def decoded() -> tuple[Tensor, int]:
            with self.open(item) as image:
                return to_array(image, sizes, channels)

        return read(decoded)


class Digits(ImageSource):
    """scikit-learn's handwritten digits: 1,797 images of 8 x 8 pixels in 17 levels of grey, ten classes."""

    classes = digits_facts.CLASSES

    def __init__(self):
        from sklearn.datasets import load_digits  # seconds to import, for this source alone

        self.made_from = {DIGITS_FILE: sha256_file(package_file(DIGITS_FILE))}
        data = load_digits()
        self._levels = np.rint(data.images * (255 / 16)).astype(np.uint8)
        self.items = tuple(Item(f"{i:04d}", str(label)) for i, label in enumerate(data.target))

    def open(self, item: Item) -> Image.Image:
        return Image.fromarray(self._levels[int(item.name)])


class ImageFolder(ImageSource):
    """A folder or table of images and prompts (tasks.data.image_folder), such as data/raw; it is hashed as an input."""

    def __init__(self, folder: Path):
        listing = list_images(folder)
        self.items, self.classes, self.left_out = listing.items, listing.classes, listing.told_left_out
        self.prompts = listing.prompts
        self._folder = folder

    def open(self, item: Item) -> Image.Image:
        return Image.open(self._folder / item.name)

    def given(self, item: Item, size: tuple[int, int]) -> dict[str, Tensor]:
        def decoded(column: str, name: str) -> Tensor:
            with Image.open(self._folder / name) as image:
                return to_array(image, [size], 1 if column == "mask" else 3)[0]

        found = {}
        for column, name in item.given.items():
            try:
                found[column] = read(partial(decoded, column, name))
            except Unreadable as error:
                raise Unreadable(f"its {column} {shown(name)}: {error}") from error
        return found


class Prompts(ImageSource):
    """No images: what is distilled is asked for in words alone."""

    items = ()
    classes = ()
