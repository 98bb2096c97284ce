"""The images, or other samples, real or of the teacher, that samples are compared with, and what the extractors observe
in them."""

import functools
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fewstep.data.images import ImageSet
from fewstep.data.medium import to_stored, to_unit_range
from fewstep.metrics.distances.nearest_neighbours import nearest, nearest_distances
from fewstep.metrics.extractors.extractor import Extractor
from fewstep.metrics.extractors.feature_cache import content_key, kept
from fewstep.metrics.extractors.media import frame_features, motion, seen_as
from fewstep.metrics.observed import Observed
from fewstep.util.errors import SettingsError
from fewstep.util.source_code import APART, SourceTree

NEAREST = 1000
"""Samples (and held-out images) whose nearest training image is looked up."""
FEWEST = 24
"""Images of a split without which there is no Fréchet distance with an interval."""
_TRAINING_BLOCK = 4096


class ReferenceImages:
    """Reference and training images of one data set, seen by the extractors.

    Images come as uint8 (clipped to [-1, 1] and quantised to 8 bit, as pictures are seen), videos and sound as
    fewstep.data.medium has them; features are taken from these, batch by batch of a fixed size, on which their last
    bits depend.

    Args:
        extractor: maps images to features; fitted to pictures of the samples, where these are no images.
        test: reference images, at least 24.
        train: the images the teacher was trained on, at least 24, for the memorisation control.
        batch: images per call of an extractor.
        digest: SHA-256 of the image set that both splits belong to.
        more: further extractors.
        cache: folder that keeps what was observed in the reference, by content; None keeps nothing.

    Raises:
        SettingsError: a split has too few images, or an extractor is made for another medium.
    """

    def __init__(self, extractor: Extractor, test: ImageSet, train: ImageSet, *, batch: int, digest: str,
                 more: Sequence[Extractor] = (), cache: Path | None = None):  # fmt: skip
        if min(len(test), len(train)) < FEWEST:
            raise SettingsError(
                f"evaluation needs at least {FEWEST} reference and {FEWEST} training images, there are "
                f"{len(test)} and {len(train)}; add images or change data.split"
            )
        of = {"medium": test.medium, "shape": test.shape, "rate": test.rate}
        self.extractor, self.test, self.train = seen_as(extractor, **of, by_spectrum=True), test, train
        self.batch, self.digest, self.cache = batch, digest, cache
        self.more = (*(seen_as(one, **of, by_spectrum=False) for one in more), *motion(extractor, test.shape))

    def observe(self, images: Tensor) -> Observed:
        """Features, classes and distances to the nearest training images of samples (n, …) as
        they are stored."""
        return self._observe(images, self._arrays["training"])

    @property
    def observed(self) -> Observed:
        """The test split, seen the same way."""
        return Observed.of(self._arrays)

    def nearest_training(self, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """For each of (n, …) stored samples the number (n,) of the nearest training image and its distance (n,)."""
        return nearest(_points(images), self._training_blocks())

    def statistics(self, extractor: Extractor) -> str:
        """SHA-256 of what the statistics of the reference in this extractor's features are computed from."""
        return content_key({
            "images": self.digest, "split": "test", "n": len(self.test), "features": extractor.digest,
            "dimensions": extractor.dimensions, "resized": extractor.resized, "antialiased": extractor.antialiased,
            **({"seen": extractor.seen} if extractor.seen else {}),
        })  # fmt: skip

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        """What was observed in the test split and, as `training`, the features of the training images."""

        def make() -> dict[str, np.ndarray]:
            training = np.concatenate([self._features(self.extractor, to_stored(self.train.images(rows)))
                                       for rows in torch.arange(len(self.train)).split(_TRAINING_BLOCK)])  # fmt: skip
            return {**self._observe(all_stored(self.test), training).tensors(), "training": training}

        described = [self.statistics(extractor) for extractor in (self.extractor, *self.more)]
        code = _code_digest() if self.cache else ""     # other code observes other things in the same images
        return kept(self.cache, content_key({"extractors": described, "batch": self.batch, "code": code}), make)

    def _observe(self, images: Tensor, training: np.ndarray) -> Observed:
        features = self._features(self.extractor, images)
        classes = None
        if self.extractor.num_classes:
            parts = images.split(self.batch)
            classes = np.concatenate([self.extractor.classify(to_unit_range(part)) for part in parts])
        embedding = None
        if self.extractor.texts is not None:
            embedding = np.concatenate([self.extractor.embed(to_unit_range(part)) for part in images.split(self.batch)])
        frames = frame_features(self.extractor, images, self.batch)
        near = nearest_distances(_points(images[:NEAREST]), self._training_blocks())
        return Observed(features, classes, near, nearest_distances(features[:NEAREST], [training]),
                        {extractor.name: self._features(extractor, images) for extractor in self.more},
                        embedding, frames)  # fmt: skip

    def _features(self, extractor: Extractor, images: Tensor) -> np.ndarray:
        return np.concatenate([extractor(to_unit_range(part)) for part in images.split(self.batch)])

    def _training_blocks(self) -> Iterator[np.ndarray]:
        for rows in torch.arange(len(self.train)).split(_TRAINING_BLOCK):
            yield self.train.images(rows).flatten(1).numpy()


@functools.cache
def _code_digest() -> str:
    """Digest of the code that observes images (fewstep.util.source_code)."""
    return SourceTree().code([__name__], apart=APART).digest


def all_stored(images: ImageSet) -> Tensor:
    """All samples (n, …) of a split, as they are stored."""
    return torch.cat([to_stored(images.images(rows)) for rows in torch.arange(len(images)).split(_TRAINING_BLOCK)])


def _points(images: Tensor) -> np.ndarray:
    return to_unit_range(images).flatten(1).numpy()
