"""Verification of a shard: all of its bytes, headers and padding included."""

import hashlib
import os
import zlib
from pathlib import Path

from fewstep.data.records import tarball
from fewstep.data.records.shard_index import index_path, read_index
from fewstep.util.errors import CorruptData

_CHUNK = 8 << 20


def verify_shard(path: Path | str) -> list[str]:
    """Compare a shard with its index: size, headers, payloads, padding, end mark, SHA-256 of the whole.

    Any flipped bit, truncation or appended byte is reported. Memory is bounded whatever the size of a record.

    Returns:
        One line per difference, naming the file and, where one can be named, the record; empty if all is well.
    """
    path = Path(path)
    try:
        index = read_index(index_path(path))
    except CorruptData as error:
        return [str(error)]
    if not path.is_file():
        return [f"{path}: the shard is missing"]
    problems: list[str] = []
    whole = hashlib.sha256()
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size != index.bytes:
            return [f"{path}: {size} bytes, expected {index.bytes}"]

        def read(length: int) -> bytes:
            data = file.read(length)
            whole.update(data)
            return data

        for entry in index.records:
            if read(tarball.BLOCK) != tarball.header(entry.name, entry.bytes):
                problems.append(f"{path}: record {entry.name}: tar header differs")
            crc, left = 0, entry.bytes
            while left and (chunk := read(min(left, _CHUNK))):
                crc, left = zlib.crc32(chunk, crc), left - len(chunk)
            if crc != entry.crc32:
                problems.append(f"{path}: record {entry.name}: checksum differs")
            if any(read(tarball.padding(entry.bytes))):
                problems.append(f"{path}: record {entry.name}: padding is not zero")
        if any(read(len(tarball.END))):
            problems.append(f"{path}: end mark differs")
    if not problems and whole.hexdigest() != index.sha256:
        problems.append(f"{path}: SHA-256 differs")
    return problems
