"""Which backends made the records of an unfinished set, so that one continued elsewhere says so."""

import threading
import warnings
from collections.abc import Callable
from pathlib import Path

from fewstep.util.errors import CorruptData
from fewstep.util.files import write_atomically
from fewstep.util.hashing import canonical_json, sha256_json
from fewstep.util.plain_data import NotPlain, from_json


class Backends:
    """A folder with one JSON file per backend, which is a fingerprint (:mod:`fewstep.util.fingerprint`)."""

    def __init__(self, folder: Path, warn: Callable[[str], None] = warnings.warn):
        self.folder, self.warn = Path(folder), warn
        self._lock = threading.Lock()

    def all(self) -> list[dict]:
        """Every backend noted so far, in a fixed order. Raises CorruptData if a note is damaged."""
        found = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                backend = from_json(path.read_bytes())
            except NotPlain as error:
                raise CorruptData(f"{path}: damaged ({error})") from error
            if path.stem != _name(backend):
                raise CorruptData(f"{path}: damaged (its name is not the hash of its content)")
            found.append(backend)
        return found

    def add(self, backend: dict, known: list[dict] = ()) -> None:
        """Note ``backend`` before it makes a record; warns if others, noted or ``known``, made records before it."""
        with self._lock:
            noted = self.all()
            if backend in noted:
                return
            others = [*noted, *known]
            if others and backend not in others:
                self.warn(
                    "continuing a trajectory set that was begun with other libraries or on another device: it will be "
                    "correct, but not equal bit for bit to one made in one place; the set records both"
                )
            write_atomically(self.folder / f"{_name(backend)}.json", canonical_json(backend) + "\n")


def _name(backend: dict) -> str:
    return sha256_json(backend)[:16]
