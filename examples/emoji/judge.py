"""What a picture shows, from its pixels: the background's colour is measured, the object told by a classifier that was
fitted to real pictures of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from examples.emoji.compositions import COLOURS, LAYOUTS, OBJECTS, Composition, all_compositions, spread
from examples.emoji.drawing import CENTRE, EXTENT, SIZE, draw_all
from fewstep.data.medium import to_unit_range
from fewstep.networks.feature_classifier import Classifier, train_classifier

TOLERANCE = 40.0
"""How far a background may be from its colour, in sRGB 0…255 (Euclidean); nearest colours are 70 apart or more."""
WIDTH = 16
"""Channels of the classifier's first convolution."""


@dataclass(frozen=True)
class Verdict:
    """Of N pictures, (N,) booleans each: whether colour, object and layout are those that were asked for."""

    colour: Tensor
    object: Tensor
    layout: Tensor

    @property
    def all(self) -> Tensor:
        """(N,) whether everything is right."""
        return self.colour & self.object & self.layout

    def shares(self, chosen: Tensor | None = None) -> dict[str, float]:
        """Share of the pictures (of those `chosen`, (N,) booleans) for which each is right."""
        kinds = {"colour": self.colour, "object": self.object, "layout": self.layout, "all": self.all}
        return {name: float((one if chosen is None else one[chosen]).double().mean()) for name, one in kinds.items()}


def background(images: Tensor) -> Tensor:
    """Colour (N, 3) of the backgrounds of images (N, 3, H, W) in [-1, 1], in sRGB 0…255: the median over the frame of
    one pixel, which no object covers by half."""
    frame = torch.cat([images[..., 0, :], images[..., -1, :], images[..., 1:-1, 0], images[..., 1:-1, -1]], dim=-1)
    return (frame.clamp(-1, 1) + 1).mul(127.5).median(-1).values


def nearest_colour(images: Tensor) -> Tensor:
    """(N,) number of the colour in COLOURS that the background is, −1 where none is within TOLERANCE."""
    known = torch.tensor(list(COLOURS.values()), dtype=torch.float32)
    distance, number = torch.cdist(background(images), known).min(1)
    return torch.where(distance <= TOLERANCE, number, -1)


def nearest_layout(images: Tensor) -> Tensor:
    """(N,) number of the layout in LAYOUTS: where the pixels that differ from the background lie.

    A pixel of the object differs by 48 of 255 or more in one channel; a row or column with one such pixel alone does
    not count (specks). The object is large where it is longer than
    halfway between the two sizes; else its middle says which half it is in.
    """
    pixels = (images.clamp(-1, 1) + 1).mul(127.5)
    differs = (pixels - background(images)[:, :, None, None]).abs().amax(1) > 48
    places = torch.arange(SIZE, dtype=torch.float32)
    found = []
    for mask in differs:
        across, down = places[mask.sum(0) >= 2], places[mask.sum(1) >= 2]
        if not (len(across) and len(down)):
            found.append(-1)
            continue
        extent = max(float(across[-1] - across[0]), float(down[-1] - down[0])) + 1
        middle = float(across[-1] + across[0] + 1) / 2
        if extent > (EXTENT["large"] + EXTENT["left"]) / 2:
            found.append(LAYOUTS.index("large"))
        else:
            found.append(LAYOUTS.index("left" if middle < (CENTRE["left"] + CENTRE["right"]) / 2 else "right"))
    return torch.tensor(found)


def fit_judge(
    font: Path, *, objects: int = len(OBJECTS), count: int = 12_000, steps: int = 1200, seed: int = 0,
    on_step: Callable[[int, int], None] | None = None,
) -> Classifier:  # fmt: skip
    """A classifier of the object, fitted to `count` real pictures of all compositions, held-out ones among them; none
    of them is in data of the same or another seed, which vary otherwise."""
    chosen = spread(all_compositions(objects), count, seed, "emoji-judge")
    images = as_tensor(draw_all(font, chosen, seed, "emoji-judge-variation"))
    labels = torch.tensor([one.object for one in chosen])
    return train_classifier(images, labels, objects, seed=seed, steps=steps, width=WIDTH, on_step=on_step)


@torch.no_grad()
def judge(classifier: Classifier, images: Tensor, asked: Sequence[Composition], batch: int = 256) -> Verdict:
    """Whether images (N, 3, H, W) in [-1, 1] show what was asked for."""
    objects = torch.cat([classifier(part.clamp(-1, 1)).argmax(1) for part in images.split(batch)])
    wanted = {name: torch.tensor([getattr(one, name) for one in asked]) for name in ("colour", "object", "layout")}
    return Verdict(nearest_colour(images) == wanted["colour"], objects == wanted["object"],
                   nearest_layout(images) == wanted["layout"])  # fmt: skip


def real_pictures(font: Path, asked: Sequence[Composition], seed: int = 0) -> Tensor:
    """Real pictures (N, 3, H, W) in [-1, 1] of these compositions, other ones than the judge or a teacher has seen."""
    return as_tensor(draw_all(font, asked, seed, "emoji-real-variation"))


def as_tensor(pictures) -> Tensor:
    """Pictures (N, H, W, 3) uint8 as images (N, 3, H, W) in [-1, 1]."""
    return to_unit_range(torch.from_numpy(pictures).permute(0, 3, 1, 2)).contiguous()
