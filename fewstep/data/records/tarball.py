"""The few bytes of USTAR (POSIX.1-1988) that a shard uses: regular files with fixed owner, mode and time.

Every header is a pure function of (member name, size), so a reader compares instead of interpreting: links, devices,
sparse files, pax extensions, absolute names and ``..`` cannot be spelled in a header that compares equal.
"""

import re

BLOCK = 512
END = bytes(2 * BLOCK)
"""End-of-archive mark."""
SUFFIX = ".safetensors"
LARGEST_RECORD = 4 << 30
"""Bytes; a record above this is refused when written and when read."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}\Z")


def check_name(name: str) -> str:
    """Return ``name`` if it may name a record: 1 to 80 letters, digits, ``_`` or ``-``, and raise ValueError if not."""
    if not isinstance(name, str) or not _NAME.match(name):
        raise ValueError(f"{name!r} cannot name a record: use 1 to 80 of A-Z a-z 0-9 _ -, the first a letter or digit")
    return name


def padding(size: int) -> int:
    """Number of zero bytes after a member of ``size`` bytes."""
    return -size % BLOCK


def header(name: str, size: int) -> bytes:
    """The 512-byte USTAR header of record ``name`` with ``size`` bytes; ValueError for a bad name or size."""
    check_name(name)
    if not 0 < size <= LARGEST_RECORD:
        raise ValueError(f"record {name}: {size} bytes is outside 1…{LARGEST_RECORD}")
    fields = [
        (name + SUFFIX).encode().ljust(100, b"\0"),
        b"0000644\0",  # mode
        b"0000000\0",  # user
        b"0000000\0",  # group
        b"%011o\0" % size,
        b"00000000000\0",  # modified 1970-01-01
        b" " * 8,  # checksum, filled in below
        b"0",  # a regular file
        bytes(100),  # no link
        b"ustar\x0000",
        bytes(32),  # user name
        bytes(32),  # group name
        b"0000000\0",
        b"0000000\0",
        bytes(155 + 12),
    ]
    block = bytearray(b"".join(fields))
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)
