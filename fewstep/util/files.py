"""Files and folders that are absent, old, or new and whole, never in between; errors of full disks. No torch here."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fewstep.util.errors import DiskFull, FewstepError

TEMPORARY = ".fewstep-tmp-"
"""Begins the name of a file that is being written; the id of the process that writes it follows."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SQLITE_FULL, _SQL_FULL = 13, "53100"     # SQLITE_FULL, disk_full
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def write_atomically(path: str | os.PathLike, content: bytes | str | Iterable[bytes], *,
                     mode: int | None = None) -> None:
    """Replace the file `path` by `content`. Readers see the old or the new file whole, also after a crash.

    Any number of processes may write to one path at once; the last one wins.

    Args:
        path: the file; its folder is made if needed. A file that is replaced passes its mode on.
        content: bytes, text (UTF-8), or chunks of bytes.
        mode: permission bits of a new file, from its first byte on; None: what the process's umask leaves.

    Raises:
        DiskFull: no space, quota or permitted file size left.
        FewstepError: the folder is not writable. `path` is then as it was before and no temporary file is left.
    """
    chunks = [content.encode()] if isinstance(content, str) else [content] if isinstance(content, bytes) else content
    with replacing(path) as temporary, open(temporary, "wb") as file:
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        file.writelines(chunks)


def mode_of(path: Path) -> int:
    """The permission bits of a file, for a copy of it."""
    return path.stat().st_mode & 0o777


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary name beside `path`; the file written there replaces `path` when the block ends.

    For libraries that write files themselves. Raises as `write_atomically` does.
    """
    path = Path(path)
    temporary = temporary_for(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            put_in_place(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def temporary_for(path: Path) -> Path:
    """A new name beside `path` that `sweep` knows: it tells which process writes the file."""
    return path.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(6)}")


def put_in_place(temporary: Path, path: Path) -> None:
    """Rename the whole file `temporary` to `path` in the same folder; the content becomes durable before the name."""
    _sync(temporary, os.O_RDONLY)
    if path.exists():
        os.chmod(temporary, path.stat().st_mode & 0o7777)
    os.replace(temporary, path)
    sync_folder(path.parent)


def link_or_copy(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Give the file `source` (behind symbolic links) the further name `target`; a copy where no hard link can be made:
    on another file system, or of another owner's file. Raises as `write_atomically` does, and for an existing target.
    """
    source, target = Path(source).resolve(), Path(target)
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except FileExistsError:
            raise
        except OSError:  # what the copy meets too, it raises
            shutil.copyfile(source, target)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write JSON, sorted and indented: the same bytes for the same data. Not atomic; for a folder in the making."""
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")


def sweep(folder: str | os.PathLike) -> list[Path]:
    """Remove the unfinished files that dead processes left directly in `folder`; returns their paths."""
    removed = []
    for path in Path(folder).glob(f"{TEMPORARY}*"):
        writer = path.name.removeprefix(TEMPORARY).partition("-")[0]
        if writer.isdigit() and not _is_alive(int(writer)):
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def sweep_tree(folder: str | os.PathLike) -> None:
    """Remove every unfinished file at any depth below `folder`, where nobody else may be writing."""
    for path in Path(folder).rglob(f"{TEMPORARY}*"):
        path.unlink(missing_ok=True)


def swap_folders(new: Path, target: Path, aside: Path) -> None:
    """Move the finished folder `new` to `target`, and what stood there to `aside`. All are on one file system.

    A crash between the two renames leaves nothing at `target`: the caller then repeats the call, or calls
    `restore_aside`. What lies in `new` must have been synced before (`sync_tree`).
    """
    if os.path.lexists(target):
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(target, aside)
    os.rename(new, target)
    for folder in {target.parent, new.parent}:
        sync_folder(folder)


def restore_aside(target: Path, aside: Path) -> None:
    """Undo the first half of a `swap_folders` that a crash cut short: if nothing is at `target`, `aside` comes back."""
    if aside.exists() and not os.path.lexists(target):
        os.rename(aside, target)


def sync_folder(folder: str | os.PathLike) -> None:
    """Make the names in `folder` durable."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def sync_tree(folder: str | os.PathLike) -> None:
    """Make every file and name below `folder` durable."""
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync(os.path.join(parent, name), os.O_RDONLY)
        sync_folder(parent)


def _sync(path: str | os.PathLike, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def disk_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turn the refusal of a disk to write `path` into one clear line.

    Raises:
        DiskFull: no space, quota or permitted file size left.
        FewstepError: the folder is read-only, or the device failed.
    """
    try:
        with writing(path):
            yield
    except OSError as error:
        if error.errno in _REFUSED:
            raise FewstepError(f"cannot write {path}: {error.strerror}; finished work is kept") from error
        raise


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turn a full disk met inside into DiskFull, which names `path`; other errors pass."""
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise disk_full(path) from error


def disk_full(path: str | os.PathLike) -> DiskFull:
    """The error for a disk that filled up while `path` was written."""
    return DiskFull(f"disk full while writing {path}; finished work is kept",
                    hint="free some space (`fewstep clean`, `fewstep gc`), then run the same command again")


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or its cause, says that no space is left.

    By errno, SQLite's result code, PostgreSQL's SQLSTATE; safetensors alone says it nowhere but in its text, as Rust
    writes an errno.
    """
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno in _FULL):
            return True
        if getattr(error, "sqlite_errorcode", None) == _SQLITE_FULL or getattr(error, "pgcode", None) == _SQL_FULL:
            return True
        if re.search(r"\(os error (27|28|122)\)", str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass    # it runs, under another user
    return True
