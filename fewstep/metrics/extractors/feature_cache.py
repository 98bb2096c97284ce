"""Arrays that are computed once per content and kept: what the extractors observe in the reference images."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from fewstep.util.io import write_atomically


def content_key(described: dict) -> str:
    """SHA-256 of what a result is computed from."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def kept(folder: Path | None, key: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of `make()`, from the folder where an earlier call left them.

    Only what this machine would compute bit for bit is taken: library and processor capability are part of the file's
    name. A damaged file is made again.

    Args:
        folder: None keeps nothing.
        key: `content_key` of what the arrays are computed from.
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
