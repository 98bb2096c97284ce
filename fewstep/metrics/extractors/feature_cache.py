"""Arrays that are computed once per content and kept: what the extractors observe in the reference images."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fewstep.util.content_cache import ContentCache
from fewstep.util.device import default_device
from fewstep.util.fingerprint import fingerprint


def content_key(described: dict) -> str:
    """SHA-256 of what a result is computed from."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def kept(folder: Path | None, key: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of `make()`, from the folder where an earlier call left them.

    Only what this machine would compute bit for bit is taken: its fingerprint is part of the key.

    Args:
        folder: None keeps nothing.
        key: `content_key` of what the arrays are computed from.
    """
    return ContentCache(folder).arrays({"key": key, **fingerprint(default_device())}, make)
