"""Images that a pipeline's call takes beside the text, such as an image to be continued and its mask: which, of what
size, and some to try it with."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

MASK = "mask"  # in the name of an argument that is no picture but a place: white is to be made anew


@dataclass(frozen=True)
class ImageArguments:
    """Images that are part of every condition.

    Attributes:
        names: of the arguments, in the call's order.
        size: (height, width) in pixels of the images, the first's at least.
        listed: whether a call for several samples takes a list of them, one for each; else it takes one for all.
    """

    names: tuple[str, ...]
    size: tuple[int, int]
    listed: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready description."""
        return {"names": list(self.names), "size": list(self.size), "listed": self.listed}

    @staticmethod
    def from_dict(data: Mapping[str, Any] | None) -> ImageArguments | None:
        """What `to_dict` described."""
        if data is None:
            return None
        height, width = data["size"]
        return ImageArguments(tuple(data["names"]), (int(height), int(width)), bool(data["listed"]))

    def of(self, image: Mapping[str, Image.Image], count: int) -> dict[str, Any]:
        """Arguments of a call for `count` samples that are all given the same images, by name."""
        return {name: [image[name]] * count if self.listed else image[name] for name in self.names}

    def some(self, seeds: Mapping[str, int] | None = None) -> dict[str, Image.Image]:
        """Noise of the right size by argument, to try a call with; seeds: other ones for some arguments."""
        return {name: _noise(self.size, (seeds or {}).get(name, 0), MASK in name) for name in self.names}


def image_inputs(kind: type) -> list[str]:
    """The arguments of a pipeline's call that are images or videos, adapters' own apart."""
    found = inspect.signature(kind.__call__).parameters
    named = {name for name in found if name.rpartition("_")[2] in ("image", "images", "video")}
    return [name for name, one in found.items()
            if "ip_adapter" not in name and (name in named or "Image" in str(one.annotation))]  # fmt: skip


def candidates(names: Sequence[str], sizes: Sequence[tuple[int, int]]) -> Iterator[ImageArguments]:
    """What a call may want of its image arguments: as few as possible, one for each sample before one for all."""
    for count in range(1, len(names) + 1):
        for size in sizes:
            for listed in (True, False):
                yield ImageArguments(tuple(names[:count]), size, listed)


def _noise(size: tuple[int, int], seed: int, mask: bool) -> Image.Image:
    random = np.random.default_rng(seed)
    if not mask:
        return Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8))
    pixels = np.zeros(size, dtype=np.uint8)
    pixels[size[0] // (2 + seed) :] = 255
    return Image.fromarray(pixels)
