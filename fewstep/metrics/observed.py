"""What the extractors observe in one set of images."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Observed:
    """Features, classes and distances of n images; row i of everything is image i.

    Attributes:
        features: (n, d) float64.
        classes: (n,) int64 as the extractor recognises them, None if it knows no classes.
        nearest: (min(n, 1000),) float64 pixel distances to the nearest training image.
        nearest_features: the same in feature space.
        more: (n, d') features of further extractors, by their name.
        embedding: (n, k) of length 1, where the extractor compares images with texts; else None.
        frames: (n, f, d) features of some frames, where the samples are videos; else None.
    """

    features: np.ndarray
    classes: np.ndarray | None
    nearest: np.ndarray
    nearest_features: np.ndarray
    more: dict[str, np.ndarray] = field(default_factory=dict)
    embedding: np.ndarray | None = None
    frames: np.ndarray | None = None

    def tensors(self) -> dict[str, np.ndarray]:
        """The arrays by name, as they are stored."""
        arrays = {"features": self.features, "classes": self.classes, "nearest": self.nearest,
                 "nearest_features": self.nearest_features, "embedding": self.embedding,
                  "frames": self.frames}  # fmt: skip
        return {name: np.ascontiguousarray(value) for name, value in arrays.items() if value is not None} | {
            f"more.{name}": np.ascontiguousarray(value) for name, value in self.more.items()}

    @classmethod
    def of(cls, tensors: dict[str, np.ndarray]) -> "Observed":
        """The inverse of `tensors`; other names are ignored. Raises KeyError."""
        return cls(tensors["features"], tensors.get("classes"), tensors["nearest"], tensors["nearest_features"],
                   {name.removeprefix("more."): value for name, value in tensors.items() if name.startswith("more.")},
                   tensors.get("embedding"), tensors.get("frames"))
