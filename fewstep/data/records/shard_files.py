"""Writing and reading shards."""

import contextlib
import hashlib
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from fewstep.data.records import tarball
from fewstep.data.records.record_codec import Record, count_samples, decode_record, encode_record
from fewstep.data.records.shard_index import Entry, ShardIndex, index_path, read_index, write_index
from fewstep.util.errors import CorruptData
from fewstep.util.files import disk_errors, put_in_place, temporary_for

_PIECE = 256 << 10


class ShardWriter:
    """Writes one shard and its index; neither is visible under its name before it is whole and synced.

    Use as a context manager. Leaving it by an exception leaves the former shard, if any, and no temporary file.

        >>> with ShardWriter("00000.tar") as shard:             # doctest: +SKIP
        ...     shard.add("00000000", {"x": torch.zeros(256, 1, 8, 8)})
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.index: ShardIndex | None = None
        self._temporary = temporary_for(self.path)
        self._entries: list[Entry] = []
        self._names: set[str] = set()
        self._hash = hashlib.sha256()
        self._position = 0
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._temporary, "wb")  # noqa: SIM115 (closed by close or abort)

    @property
    def records(self) -> int:
        """Records added so far."""
        return len(self._entries)

    def add(self, name: str, tensors: Mapping[str, Tensor], metadata: Mapping | None = None) -> None:
        """Append a record: ``tensors`` each (N, …), ``metadata`` JSON. ValueError if either is not storable."""
        self.add_bytes(name, encode_record(tensors, metadata), count_samples(tensors))

    def add_bytes(self, name: str, payload: bytes, samples: int) -> None:
        """Append the encoded record ``payload`` of ``samples`` samples. ValueError if the name is taken or no name."""
        if name in self._names:
            raise ValueError(f"{self.path}: record {name} is there already")
        head = tarball.header(name, len(payload))
        offset = self._position + len(head)
        self._write(head, payload, bytes(tarball.padding(len(payload))))
        self._entries.append(Entry(name, offset, len(payload), samples, zlib.crc32(payload)))
        self._names.add(name)

    def _write(self, *chunks: bytes) -> None:
        with disk_errors(self.path):
            for chunk in chunks:
                self._file.write(chunk)
                self._hash.update(chunk)
                self._position += len(chunk)

    def close(self) -> ShardIndex:
        """Sync, rename, then write the index (the commit point). Raises DiskFull if it is."""
        self._write(tarball.END)
        with disk_errors(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            # An index must never stand beside a shard it does not describe.
            index_path(self.path).unlink(missing_ok=True)
            put_in_place(self._temporary, self.path)
        self.index = ShardIndex(tuple(self._entries), self._position, self._hash.hexdigest())
        write_index(index_path(self.path), self.index)
        return self.index

    def abort(self) -> None:
        """Give up: remove the unfinished file."""
        with contextlib.suppress(OSError):  # a full disk refuses the last buffered bytes too; they are unwanted
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self.abort()
            return
        try:
            self.close()
        except BaseException:
            self.abort()
            raise


class ShardReader:
    """Reads records of one shard by number; what it returns has passed its checksum.

    Opening checks the index and the size of the file. Safe for use by several threads (``pread``).

    Raises:
        CorruptData: the shard is missing or differs from its index; the message names the file and the record.
    """

    def __init__(self, path: Path | str, index: ShardIndex | None = None):
        self.path = Path(path)
        self.index = index if index is not None else read_index(index_path(self.path))
        try:
            self._file = open(self.path, "rb")  # noqa: SIM115 (closed by close)
        except FileNotFoundError as error:
            raise CorruptData(f"{self.path}: the shard is missing") from error
        size = os.fstat(self._file.fileno()).st_size
        if size != self.index.bytes:
            self._file.close()
            raise CorruptData(f"{self.path}: {size} bytes, expected {self.index.bytes}: the shard is damaged")

    def __len__(self) -> int:
        return len(self.index.records)

    def payload(self, number: int) -> bytes:
        """The verified bytes of record ``number``."""
        return self._load(number).numpy().tobytes()

    def _load(self, number: int) -> Tensor:
        entry, file = self.index.records[number], self._file.fileno()
        head = os.pread(file, tarball.BLOCK, entry.offset - tarball.BLOCK)
        if head != tarball.header(entry.name, entry.bytes):
            raise CorruptData(f"{self.path}: record {entry.name}: its tar header is damaged or not one of ours")
        buffer = torch.empty(entry.bytes, dtype=torch.uint8)
        memory, done, crc = memoryview(buffer.numpy()), 0, 0
        # In pieces that stay in the processor's cache between being read and being checked.
        while count := os.preadv(file, [memory[done : done + _PIECE]], entry.offset + done):
            crc = zlib.crc32(memory[done : done + count], crc)
            done += count
        if done != entry.bytes or crc != entry.crc32:
            raise CorruptData(f"{self.path}: record {entry.name}: checksum differs, the shard is damaged")
        return buffer

    def read(self, number: int) -> Record:
        """Record ``number`` (0-based, file order), verified and decoded."""
        entry = self.index.records[number]
        buffer = self._load(number)
        try:
            record = decode_record(buffer)
        except ValueError as error:
            raise CorruptData(f"{self.path}: record {entry.name}: {error}") from error
        if record.samples != entry.samples:
            raise CorruptData(f"{self.path}: record {entry.name}: {record.samples} samples, index says {entry.samples}")
        return record

    def __iter__(self) -> Iterator[Record]:
        for number in range(len(self)):
            yield self.read(number)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "ShardReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
