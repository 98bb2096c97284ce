"""Results kept under the hash of what they are computed from; a damaged one counts as missing. No torch here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.util.checked_json import read_checked, write_checked
from fewstep.util.errors import CorruptData
from fewstep.util.files import sweep, write_atomically
from fewstep.util.hashing import sha256_bytes, sha256_json

if TYPE_CHECKING:
    import numpy as np


_FORMAT = "fewstep-cache/1"
_DIGEST = 64     # characters of a SHA-256, which precede the arrays


class ContentCache:
    """A folder of results, each in a file named by its key; several processes may share it. None: nothing is kept.

    A key is a JSON value that describes all that the result depends on.
    """

    def __init__(self, folder: Path | None):
        self.folder = None if folder is None else Path(folder)

    def get(self, key: Any) -> Any | None:
        """The JSON value kept under `key`; None if there is none, or what is there is damaged."""
        if self.folder is None:
            return None
        try:
            return json.loads(read_checked(self._path(key, "json"), _FORMAT)["value"])
        except (OSError, CorruptData):
            return None

    def put(self, key: Any, value: Any) -> None:
        """Keep the JSON value `value` under `key`. Raises DiskFull."""
        if self.folder is not None:
            sweep(self.folder)
            write_checked(self._path(key, "json"), _FORMAT, {"value": json.dumps(value)})  # a text: it may hold NaN

    def arrays(self, key: Any, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The arrays kept under `key`, or those that `make()` returns, which are then kept. Raises DiskFull."""
        if self.folder is None:
            return make()
        from safetensors import SafetensorError  # numpy: commands that only read JSON do not load it
        from safetensors.numpy import load, save

        path = self._path(key, "safetensors")
        try:
            content = path.read_bytes()
            if sha256_bytes(content[_DIGEST:]) == content[:_DIGEST].decode(errors="replace"):
                return load(content[_DIGEST:])
        except (SafetensorError, OSError):
            pass    # made below
        made = make()
        content = save(made)
        self._write(path, sha256_bytes(content).encode() + content)
        return made

    def _path(self, key: Any, suffix: str) -> Path:
        return self.folder / f"{sha256_json(key)[:32]}.{suffix}"

    def _write(self, path: Path, content: bytes) -> None:
        sweep(self.folder)
        write_atomically(path, content)
