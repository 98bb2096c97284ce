"""Finished records that wait to be packed into a shard: one file each, whose name holds the SHA-256 of its content."""

import re
from collections.abc import Iterator
from pathlib import Path

from fewstep.util.errors import CorruptData, StageFailed
from fewstep.util.files import sweep_tree, write_atomically
from fewstep.util.hashing import sha256_bytes

_NAME = re.compile(r"(\d{8})\.([0-9a-f]{64})\Z")


class LooseRecords:
    """A folder of single records, written atomically: after a kill a record is there and whole, or absent."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def find(self) -> dict[int, Path]:
        """The file of every record that is there, by record number; contents are not read.

        Raises:
            CorruptData: one record has two files: the device does not repeat its results.
        """
        files: dict[int, Path] = {}
        if self.folder.is_dir():
            for path in sorted(self.folder.iterdir()):
                if match := _NAME.match(path.name):
                    if int(match[1]) in files:
                        raise CorruptData(
                            f"{path}: a second, different content of record {match[1]}",
                            hint="the device does not repeat its results; remove both files and resume",
                        )
                    files[int(match[1])] = path
        return files

    def write(self, record: int, payload: bytes) -> None:
        """Store the encoded record ``payload`` as number ``record``. Raises DiskFull."""
        write_atomically(self.folder / f"{record:08d}.{sha256_bytes(payload)}", payload)

    def read(self, record: int, path: Path) -> bytes:
        """The content of ``path``, the file of ``record``. Raises CorruptData unless its name holds its hash."""
        payload = path.read_bytes()
        if sha256_bytes(payload) != path.name.partition(".")[2]:
            raise CorruptData(f"{path}: checksum of record {record} differs", hint="remove the file and resume")
        return payload

    def in_order(self, count: int) -> Iterator[bytes]:
        """The contents of records 0 … count − 1, each verified. Raises StageFailed unless just these are there."""
        files = self.find()
        if sorted(files) != list(range(count)):
            raise StageFailed(f"{self.folder}: {len(files)} of {count} records are there", hint="run the stage again")
        return (self.read(number, files[number]) for number in range(count))

    def sweep(self) -> None:
        """Remove the unfinished files of killed writers. Only while nobody writes."""
        sweep_tree(self.folder)
