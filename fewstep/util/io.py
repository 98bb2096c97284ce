"""Writing a file so that it is either absent, or old, or new and whole; never in between."""

import errno
import json
import os
import threading
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

from fewstep.util.errors import DiskFull, FewstepError

TEMPORARY = ".tmp"
"""Suffix of a file being written. One fixed name per target: a killed writer's leftover is replaced by the next."""


@contextmanager
def disk_errors(path: Path):
    """Turn the operating system's refusals to write ``path`` into one clear line.

    Raises:
        DiskFull: no space, quota or permitted file size left.
        FewstepError: the folder is read-only, or the device failed.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(
                f"disk full while writing {path}; finished work is kept", hint="free some space and resume"
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO):
            raise FewstepError(f"cannot write {path}: {error.strerror}; finished work is kept") from error
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable (``fsync`` of the directory)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def discard(path: Path) -> None:
    """Remove the file ``path`` if it is there."""
    path.unlink(missing_ok=True)


def temporary_for(path: Path) -> Path:
    """The name under which ``path`` is written before it is complete."""
    return path.with_name(path.name + TEMPORARY)


def write_atomically(path: Path | str, content: bytes | str | Iterable[bytes], *, shared: bool = False) -> None:
    """Write ``content`` to ``path``: temporary name, ``fsync``, rename, ``fsync`` of the folder.

    Args:
        path: the file; its folder is made if needed.
        content: bytes, text (UTF-8), or chunks of bytes.
        shared: others may write the same content to ``path`` at the same time.

    Raises:
        DiskFull: no space, quota or permitted file size left.
        FewstepError: the folder is not writable. ``path`` is then as it was before and no temporary file is left.
    """
    path = Path(path)
    chunks = [content.encode()] if isinstance(content, str) else [content] if isinstance(content, bytes) else content
    writer = f".{os.getpid()}-{threading.get_ident()}" if shared else ""
    temporary = temporary_for(path.with_name(path.name + writer))
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            discard(temporary)
            raise
        sync_folder(path.parent)


def canonical_json(value) -> str:
    """JSON with sorted keys and no spaces: equal values give equal bytes. NaN and infinity are refused (ValueError)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
