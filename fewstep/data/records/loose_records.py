"""Finished records that wait for their shard: one file each, whose name carries the checksum of its content."""

import re
from pathlib import Path

from fewstep.util.errors import CorruptData
from fewstep.util.files import sweep_tree, write_atomically
from fewstep.util.hashing import sha256_bytes

_NAME = re.compile(r"(\d{8})\.([0-9a-f]{64})\Z")


class LooseRecords:
    """A folder of single records. Writing is atomic: after a kill a record is there and whole, or not there."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def find(self) -> dict[int, Path]:
        """record number → file, by name only.

        Raises:
            CorruptData: two different contents for one record: the backend does not repeat its results.
        """
        found: dict[int, Path] = {}
        if self.folder.is_dir():
            for path in sorted(self.folder.iterdir()):
                if match := _NAME.match(path.name):
                    if int(match[1]) in found:
                        raise CorruptData(
                            f"{path}: a second, different content of record {match[1]}",
                            hint="the device does not repeat its results; remove both files and resume",
                        )
                    found[int(match[1])] = path
        return found

    def write(self, record: int, payload: bytes) -> None:
        """Store ``payload`` as ``record``: written, synced, renamed. Raises DiskFull."""
        write_atomically(self.folder / f"{record:08d}.{sha256_bytes(payload)}", payload)

    def read(self, record: int, path: Path) -> bytes:
        """The verified content of ``path``. Raises CorruptData if it differs from its name."""
        payload = path.read_bytes()
        if sha256_bytes(payload) != path.name.partition(".")[2]:
            raise CorruptData(f"{path}: checksum of record {record} differs", hint="remove the file and resume")
        return payload

    def sweep(self) -> None:
        """Remove what a killed writer left unfinished. Only while nobody writes."""
        sweep_tree(self.folder)
