"""What was seen in one set of samples, and in the reference, which is seen once and kept by content."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from fewstep.util.io import write_atomically


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


def kept(folder: Path | None, key: str, make) -> dict[str, np.ndarray]:
    """The arrays of `make()`, from the folder where they were made before from the same content.

    Only what this machine would compute bit for bit is taken: library and processor capability are part of the name. A
    damaged file is made again. None for the folder: nothing is kept.
    """
    if folder is None:
        return make()
    under = content_key({"key": key, "torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()})
    path = Path(folder) / f"{under[:32]}.safetensors"
    try:
        return load_file(path)
    except (SafetensorError, OSError):
        made = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save(made), shared=True)
    return made
