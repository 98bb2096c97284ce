"""Files that are whole or absent: atomic writes, hashes, a table of hashes already taken, full disks said in words."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fewstep.util.errors import DiskFull, FewstepError, NotAvailable

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FICLONE = 0x40049409       # Linux: share the blocks of another file (btrfs, XFS)
_SETTLE_NS = 20_000_000     # a file changed again within one tick of the clock could keep its time stamps
TEMPORARY = ".fewstep-tmp-"


def atomic_write(path: str | os.PathLike, data: bytes | str) -> None:
    """Replace `path` by `data`: written beside it, synced, renamed. Readers see the old or the new whole.

    Not `fewstep.data.records.write_atomically`: what decides whether a stage runs must not load torch as that package does,
    and here a file keeps its mode, and `sweep` tells by the writer's id which leftovers are of the dead.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = data.encode() if isinstance(data, str) else data
    with writing(path):
        handle, temporary = tempfile.mkstemp(prefix=f"{TEMPORARY}{os.getpid()}-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, (path.stat().st_mode & 0o7777) if path.exists() else 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        fsync_dir(path.parent)


def fsync_dir(folder: str | os.PathLike) -> None:
    """Make the names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_tree(folder: str | os.PathLike) -> None:
    """Make every file and name below `folder` durable."""
    for parent, _, names in os.walk(folder):
        for name in names:
            handle = os.open(os.path.join(parent, name), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        fsync_dir(parent)


def write_if_other(path: str | os.PathLike, data: bytes | str) -> None:
    """`atomic_write` unless the file holds just this: what has not changed keeps its times."""
    path, data = Path(path), data.encode() if isinstance(data, str) else data
    if not path.is_file() or path.read_bytes() != data:
        atomic_write(path, data)


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


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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


def discard(path: str | os.PathLike, trash: str | os.PathLike) -> None:
    """Delete a folder or file if it is there: moved into `trash` (same file system) first, so that a crash leaves no
    half folder under its name; whatever lies in `trash` may be deleted at any time."""
    trash = Path(trash)
    trash.mkdir(parents=True, exist_ok=True)
    doomed = Path(tempfile.mkdtemp(dir=trash))
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, doomed / "it")
    shutil.rmtree(doomed, ignore_errors=True)


def sweep(folder: str | os.PathLike) -> list[Path]:
    """Remove what dead processes left of unfinished `atomic_write`s directly in `folder`; returns what was removed."""
    removed = []
    for path in Path(folder).glob(f"{TEMPORARY}*"):
        owner = path.name.removeprefix(TEMPORARY).split("-")[0]
        if owner.isdigit() and not _alive(int(owner)):
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def sweep_tree(folder: str | os.PathLike) -> None:
    """Remove every unfinished `atomic_write` below `folder`, where nobody else may be writing."""
    for path in Path(folder).rglob(f"{TEMPORARY}*"):
        path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def clone_or_copy(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Copy a file's bytes, sharing blocks where the file system can. The target is an ordinary writable file."""
    with writing(target), open(source, "rb") as reader, open(target, "wb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        except OSError:
            shutil.copyfileobj(reader, writer, 1 << 20)


@contextlib.contextmanager
def writing(what: str | os.PathLike) -> Iterator[None]:
    """Turn a full disk (quota, file size limit) met inside into DiskFull that names `what` was being written."""
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise disk_full(what) from error


def disk_full(what: str | os.PathLike) -> DiskFull:
    """The error for a disk that filled up while `what` was written."""
    return DiskFull(f"disk full while writing {what}; finished work is kept",
                    hint="free some space (`fewstep clean`, `fewstep gc`), then run the same command again")


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, says that no more can be written (also in the words of other libraries)."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno in _FULL):
            return True
        text = str(error)
        if re.search(r"os error (27|28|122)\b", text) or "database or disk is full" in text:
            return True     # safetensors (Rust) and SQLite
        error = error.__cause__ or error.__context__
    return False


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


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
        digest = sha256(path)
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
