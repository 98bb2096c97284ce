"""Atomic files and folders: what a failure, a full disk and a dead writer leave behind."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import sqlite3
import stat
import subprocess
import sys

import pytest

from fewstep.util import files
from fewstep.util.errors import DiskFull, FewstepError


@contextlib.contextmanager
def small_disk(limit: int):
    """No file may become larger than `limit` bytes."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    files.write_atomically(path, "old")
    with small_disk(1000), pytest.raises(DiskFull, match=f"disk full while writing {path}"):
        files.write_atomically(path, b"x" * 5000)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [
    OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "Disk quota exceeded"),
    RuntimeError("I/O error: No space left on device (os error 28)"),
])
def test_a_full_disk_is_recognised_whatever_library_met_it(error):
    with pytest.raises(DiskFull, match="finished work is kept"), files.writing("x"):
        raise ValueError("while saving") from error


def test_a_full_database_is_a_full_disk(tmp_path):
    database = sqlite3.connect(tmp_path / "full.db")
    database.execute("PRAGMA max_page_count = 2")
    with pytest.raises(DiskFull), files.writing("full.db"):
        database.execute("CREATE TABLE a AS SELECT hex(randomblob(9999)) FROM (VALUES (1), (2), (3))")
    with pytest.raises(sqlite3.OperationalError), files.writing("full.db"):     # words alone say nothing
        database.execute("SELECT * FROM [database or disk is full]")


def test_other_errors_pass_unchanged():
    with pytest.raises(PermissionError), files.writing("x"):
        raise PermissionError(errno.EACCES, "no")


def test_sweep_removes_what_the_dead_left_and_nothing_of_the_living(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in (f".fewstep-tmp-{dead.pid}-abc", f".fewstep-tmp-{os.getpid()}-abc", "data.bin"):
        (tmp_path / name).write_text("")
    assert [path.name for path in files.sweep(tmp_path)] == [f".fewstep-tmp-{dead.pid}-abc"]
    assert len(os.listdir(tmp_path)) == 2


def test_content_may_be_bytes_text_or_chunks_and_a_mode_is_kept(tmp_path):
    path = tmp_path / "deep" / "a"
    files.write_atomically(path, "é")
    assert path.read_bytes() == "é".encode() and stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask()
    path.chmod(0o600)
    files.write_atomically(path, (bytes([number]) for number in range(3)))
    assert path.read_bytes() == b"\0\1\2" and stat.S_IMODE(path.stat().st_mode) == 0o600
    private = tmp_path / "private"
    files.write_atomically(private, "secret", mode=0o600)
    assert stat.S_IMODE(private.stat().st_mode) == files.mode_of(private) == 0o600


def umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def test_a_block_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="half"), files.replacing(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise ValueError("half")
    assert not list(tmp_path.iterdir())


def test_what_refuses_to_be_written_is_named(tmp_path):
    with pytest.raises(FewstepError, match="cannot write x: no"), files.disk_errors("x"):
        raise PermissionError(errno.EACCES, "no")


def test_folders_are_swapped_and_half_a_swap_is_undone_or_completed(tmp_path):
    new, target, aside = (tmp_path / name for name in ("new", "target", "aside"))
    for folder, text in ((new, "new"), (target, "old"), (aside, "older")):
        folder.mkdir()
        (folder / "x").write_text(text)
    files.swap_folders(new, target, aside)
    assert (target / "x").read_text() == "new" and (aside / "x").read_text() == "old" and not new.exists()
    files.restore_aside(target, aside)      # nothing to undo
    assert (target / "x").read_text() == "new"
    os.rename(target, new)      # as if the process had died between the two renames
    files.restore_aside(target, aside)
    assert (target / "x").read_text() == "old" and not aside.exists()
    os.rename(target, aside)
    files.swap_folders(new, target, aside)
    assert (target / "x").read_text() == "new" and (aside / "x").read_text() == "old"
