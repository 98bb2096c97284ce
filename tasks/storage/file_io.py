"""Files of a workspace: what belongs to an output, copies that share blocks, a table of hashes already taken."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path

from fewstep.util.errors import FewstepError, NotAvailable, SettingsError
from fewstep.util.files import write_atomically, writing
from fewstep.util.hashing import sha256_file

_FICLONE = 0x40049409       # Linux: share the blocks of another file (btrfs, XFS)
_SETTLE_NS = 20_000_000     # a file changed again within one tick of the clock could keep its time stamps


def write_if_other(path: str | os.PathLike, data: bytes | str) -> None:
    """Write `data` to `path` atomically, unless the file holds just this: what has not changed keeps its times."""
    path, data = Path(path), data.encode() if isinstance(data, str) else data
    if not path.is_file() or path.read_bytes() != data:
        write_atomically(path, data)


def package_file(name: str) -> Path:
    """A file that an installed package brings, by its path from the package's name on; the package is not imported.

    Raises NotAvailable when it is not there.
    """
    package, _, rest = name.partition("/")
    found = importlib.util.find_spec(package)
    path = Path(found.submodule_search_locations[0], rest) if found else None
    if path is None or not path.is_file():
        raise NotAvailable(f"the installed package {package} has no {rest}", hint="`fewstep doctor` checks versions")
    return path


def list_files(folder: str | os.PathLike) -> list[str]:
    """Relative POSIX paths of all regular files below `folder`, sorted. Links and special files raise FewstepError."""
    folder, found = Path(folder), []
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(parent, name)
            if path.is_symlink() or (name in names and not path.is_file()):
                raise FewstepError(f"{path}: links and special files are not part of an output",
                                   hint="replace it by the file itself")
        found += [Path(parent, name).relative_to(folder).as_posix() for name in names]
    return sorted(found)


def list_given(folder: str | os.PathLike) -> list[str]:
    """Relative POSIX paths of all files below a folder from outside, sorted. Links are followed, as in a snapshot of
    the hub's cache, whose files are links to blobs.

    Raises SettingsError for a link to nothing, a link to a folder that holds it, and a special file.
    """
    folder, found = Path(folder), []

    def walk(parent: Path, above: tuple[str, ...]) -> None:
        real = os.path.realpath(parent)
        if real in above:
            raise SettingsError(f"{parent}: the link leads back to a folder that holds it", hint="remove the link")
        for path in parent.iterdir():
            if path.is_dir():
                walk(path, (*above, real))
            elif path.is_file():
                found.append(path.relative_to(folder).as_posix())
            else:
                why = "the link leads to nothing" if path.is_symlink() else "neither a file nor a folder"
                raise SettingsError(f"{path}: {why}", hint="remove it, or bring what belongs there")

    walk(folder, ())
    return sorted(found)


def discard(path: str | os.PathLike, trash: str | os.PathLike) -> None:
    """Delete a folder or file if it is there: moved into `trash` (same file system) first, so that a crash leaves no
    half folder under its name; whatever lies in `trash` may be deleted at any time."""
    trash = Path(trash)
    trash.mkdir(parents=True, exist_ok=True)
    doomed = Path(tempfile.mkdtemp(dir=trash))
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, doomed / "it")
    shutil.rmtree(doomed, ignore_errors=True)


def clone_or_copy(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Copy a file's bytes, sharing blocks where the file system can. The target is an ordinary writable file."""
    with writing(target), open(source, "rb") as reader, open(target, "wb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        except OSError:
            shutil.copyfileobj(reader, writer, 1 << 20)


class StatTable:
    """SHA-256 of files already hashed, found again by device, inode, size, mtime and ctime; names do not matter.

    Any write, truncation or replacement changes one of them, so an unchanged row stands for unchanged bytes as far as
    the file system tells; bytes that rot on the disk are found by `fewstep verify`, which hashes anew. The table is a
    cache in SQLite: when it cannot be read or written, files are hashed.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.hashed = 0     # files hashed by this object, for tests and reports
        self._database: sqlite3.Connection | None = None
        self._learnt: dict[tuple[int, int], tuple] = {}     # written by commit: an open transaction would block others

    def sha256(self, path: str | os.PathLike, *, fresh: bool = False) -> str:
        """SHA-256 of `path`; with `fresh` its bytes are read whatever the table says, and the table is set right."""
        row = self._key(os.stat(path))
        if not fresh:
            known = self._get(row)
            if known:
                return known
        wait = max(row[3], row[4]) + _SETTLE_NS - time.time_ns()
        if 0 < wait <= _SETTLE_NS:
            time.sleep(wait / 1e9)
        digest = sha256_file(path)
        self.hashed += 1
        if self._key(os.stat(path)) == row:
            self._put(row, digest)
        return digest

    def commit(self) -> None:
        """Make what was learnt durable; called after a batch of files."""
        if self._learnt:
            with contextlib.suppress(sqlite3.Error, OSError), self._open() as database:
                database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", self._learnt.values())
            self._learnt = {}

    def close(self) -> None:
        """Commit, and close the database."""
        self.commit()
        if self._database is not None:
            self._database.close()
            self._database = None

    @staticmethod
    def _key(stat: os.stat_result) -> tuple[int, int, int, int, int]:
        return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=10, check_same_thread=False)
            self._database.execute("PRAGMA synchronous=OFF")
            self._database.execute("CREATE TABLE IF NOT EXISTS files (device INTEGER, inode INTEGER, size INTEGER, "
                                   "mtime INTEGER, ctime INTEGER, sha256 TEXT, PRIMARY KEY (device, inode))")
        return self._database

    def _get(self, row: tuple) -> str | None:
        if row[:2] in self._learnt:
            size, mtime, ctime, digest = self._learnt[row[:2]][2:]
            return digest if (size, mtime, ctime) == row[2:] else None
        try:
            found = self._open().execute("SELECT size, mtime, ctime, sha256 FROM files WHERE device=? AND inode=?",
                                         row[:2]).fetchone()
        except (sqlite3.Error, OSError):
            return None
        return found[3] if found and tuple(found[:3]) == row[2:] else None

    def _put(self, row: tuple, digest: str) -> None:
        self._learnt[row[:2]] = (*row, digest)
