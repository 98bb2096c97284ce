"""What was seen in one set of samples, and in the reference, which is seen once and kept by content."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fewstep.util.content_cache import ContentCache
from fewstep.util.device import default_device
from fewstep.util.fingerprint import fingerprint


@dataclass(frozen=True)
class Observed:
    """What one set of samples looks like; row i of everything is sample i.

    Attributes:
        features: (n, d) float64.
        classes: (n,) int64 as the extractor sees them, None if it knows no classes.
        nearest: (min(n, 1000),) float64 pixel distances to the nearest training image.
        nearest_features: the same in feature space.
        more: (n, d') features of further extractors, by their name.
    """

    features: np.ndarray
    classes: np.ndarray | None
    nearest: np.ndarray
    nearest_features: np.ndarray
    more: dict[str, np.ndarray] = field(default_factory=dict)

    def tensors(self) -> dict[str, np.ndarray]:
        """By name, as they are stored."""
        known = {"features": self.features, "classes": self.classes, "nearest": self.nearest,
                 "nearest_features": self.nearest_features}  # fmt: skip
        return {name: np.ascontiguousarray(value) for name, value in known.items() if value is not None} | {
            f"more.{name}": np.ascontiguousarray(value) for name, value in self.more.items()}

    @classmethod
    def of(cls, tensors: dict[str, np.ndarray]) -> "Observed":
        """The inverse of `tensors`; other names are ignored. Raises KeyError."""
        return cls(tensors["features"], tensors.get("classes"), tensors["nearest"], tensors["nearest_features"],
                   {name.removeprefix("more."): value for name, value in tensors.items() if name.startswith("more.")})


def content_key(described: dict) -> str:
    """SHA-256 of what a result is computed from."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def kept(folder: Path | None, key: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of `make()`, from the folder where they were made before from the same content.

    Only what this machine would compute bit for bit is taken: its fingerprint is part of the key. None for the folder:
    nothing is kept.
    """
    return ContentCache(folder).arrays({"key": key, **fingerprint(default_device())}, make)
