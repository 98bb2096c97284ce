"""What of the data's images stands in a condition, for teachers that are given images beside the text: what was brought
as its control or mask, else an image itself, or a smaller copy, and a mask that is drawn. A condition's images are
those of its first sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from fewstep.data.images import ImageSet
from fewstep.data.medium import to_bytes
from fewstep.diffusion.randomness import derive, generator
from fewstep.families.encoded_set import size_of
from fewstep.families.image_arguments import MASK, ImageArguments
from fewstep.util.errors import SettingsError

CONTROL = "control"     # in the name of a column, and of an argument where a call has more images than that one
_MASK, _DRAWS = "condition-mask", "condition-draws"
_SIDES = (0.25, 0.85)  # of a rectangle that is masked, as shares of the image's


def require_conditions(pipeline: str, wanted: ImageArguments | None, given: bool) -> None:
    """Raises SettingsError where the data's conditions have an image and the teacher's none, or the other way round."""
    if wanted is not None and not given:
        raise SettingsError(f"a condition of {pipeline} has {' and '.join(wanted.names)} beside its text",
                            hint="bring captioned images (`fewstep data add PATH`), and set data.source=raw and "
                                 "data.conditions=image")  # fmt: skip
    if wanted is None and given:
        raise SettingsError(f"data.conditions is image, and {pipeline} is given texts or classes alone",
                            hint="set data.conditions to text")  # fmt: skip


def open_image(path: Path, size: tuple[int, int], mode: str) -> Image.Image:
    """The image of a file, fitted to a size (height, width), in mode RGB or L. Raises SettingsError, naming it."""
    try:
        with Image.open(path) as image:
            return fitted(ImageOps.exif_transpose(image).convert(mode), size)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise SettingsError(f"{path}: no image that can be read ({error})") from error


def fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The centre of a picture, as large as may be, at this size (height, width)."""
    wanted = size[::-1]
    return picture if picture.size == wanted else ImageOps.fit(picture, wanted, Image.Resampling.LANCZOS)


def _picture(pixels: Tensor, mode: str) -> Image.Image:
    """An image of pixels (C, H, W) uint8."""
    array = pixels.permute(1, 2, 0).numpy()
    return Image.fromarray(array if array.shape[-1] == 3 else array[..., 0]).convert(mode)


class ImageConditions:
    """Images by row of the conditions.

    Args:
        images: by split and size (`of_size`), each with its row; rows without an image are refused where they are asked
            for.
        wanted: what the teacher's call takes, by number of the size; all of the same names.
        seed: of the experiment: masks are a function of it and of the row.
    """

    def __init__(self, images: Mapping[str, ImageSet], wanted: Sequence[ImageArguments], seed: int):
        self.wanted, self.seed, self._images = wanted, seed, images
        self._places: dict[int, tuple[str, int]] = {}
        for split, some in images.items():
            for number, row in enumerate(some.prompts.tolist()):
                self._places.setdefault(row, (split, number))

    def of(self, rows: Sequence[int]) -> dict[str, list[Image.Image]]:
        """The images of these rows, by argument of the call."""
        return {name: [self._of_argument(name, row) for row in rows] for name in self._names}

    def seeds(self, rows: Sequence[int]) -> list[int]:
        """Of the generators that the teacher's call draws from for these rows."""
        return [derive(self.seed, _DRAWS, row) for row in rows]

    def _of_argument(self, name: str, row: int) -> Image.Image:
        split, number = self._places[row]
        images, wanted, size = self._images[split], MASK if MASK in name else CONTROL, self.wanted[size_of(split)].size
        if wanted in images.given and name in self._serves(wanted):
            return fitted(_picture(images.further(wanted, [number])[0], "L" if wanted == MASK else "RGB"), size)
        if MASK in name:
            return self._mask(row, size)
        return fitted(_picture(to_bytes(images.images([number]))[0], "RGB"), size)

    @property
    def _names(self) -> tuple[str, ...]:
        return self.wanted[0].names

    def _serves(self, column: str) -> list[str]:
        """The arguments that a column is for: those that are named so, else the first image."""
        named = [name for name in self._names if column in name]
        return named or [name for name in self._names if MASK not in name][:1]

    def _mask(self, row: int, size: tuple[int, int]) -> Image.Image:
        """White where the image is to be made anew: a rectangle of a fourth to most of each side, anywhere."""
        height, width = size
        least, most = _SIDES
        drawn = torch.rand(4, generator=generator(self.seed, _MASK, row), dtype=torch.float64).tolist()
        tall, wide = (max(1, round((least + (most - least) * share) * side)) for share, side in
                      zip(drawn, (height, width), strict=False))  # fmt: skip
        top, left = (int(share * (side - taken + 1)) for share, side, taken in
                     zip(drawn[2:], (height, width), (tall, wide), strict=True))  # fmt: skip
        mask = np.zeros((height, width), dtype=np.uint8)
        mask[top : top + tall, left : left + wide] = 255
        return Image.fromarray(mask)
