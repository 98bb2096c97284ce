"""Atomic files, known hashes, manifests, the lock: what crashes, damage and a full disk do to them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fewstep.util.errors import Busy, CorruptData, DiskFull, FewstepError
from tasks.engine import manifest
from tasks.engine.manifest import File, Manifest
from tasks.storage import file_io, locks
from tasks.storage.file_io import StatTable
from tasks.storage.workspace import Workspace


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
    file_io.atomic_write(path, "old")
    with small_disk(1000), pytest.raises(DiskFull, match=f"disk full while writing {path}"):
        file_io.atomic_write(path, b"x" * 5000)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [
    OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "Disk quota exceeded"),
    RuntimeError("I/O error: No space left on device (os error 28)"), Exception("database or disk is full"),
])
def test_a_full_disk_is_recognised_in_every_librarys_words(error):
    with pytest.raises(DiskFull, match="finished work is kept"), file_io.writing("x"):
        raise ValueError("while saving") from error


def test_other_errors_pass_unchanged():
    with pytest.raises(PermissionError), file_io.writing("x"):
        raise PermissionError(errno.EACCES, "no")


def test_sweep_removes_what_the_dead_left_and_nothing_of_the_living(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in (f".fewstep-tmp-{dead.pid}-abc", f".fewstep-tmp-{os.getpid()}-abc", "data.bin"):
        (tmp_path / name).write_text("")
    assert [path.name for path in file_io.sweep(tmp_path)] == [f".fewstep-tmp-{dead.pid}-abc"]
    assert len(os.listdir(tmp_path)) == 2


def test_a_known_hash_is_taken_from_the_table_until_the_file_changes(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "a").write_bytes(b"one")
    first = StatTable(tmp_path / "table.sqlite")
    digest = first.sha256(tmp_path / "work" / "a")
    first.close()
    table = StatTable(tmp_path / "table.sqlite")
    os.rename(tmp_path / "work", tmp_path / "published")    # what publishing does
    path = tmp_path / "published" / "a"
    assert table.sha256(path) == digest and table.hashed == 0
    times = os.stat(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))     # same size, same mtime
    assert table.sha256(path) != digest and table.hashed == 1
    table.close()


def test_a_table_that_cannot_be_used_costs_time_only(tmp_path):
    (tmp_path / "table.sqlite").write_bytes(b"not a database" * 100)
    (tmp_path / "a").write_bytes(b"one")
    table = StatTable(tmp_path / "table.sqlite")
    assert table.sha256(tmp_path / "a") == table.sha256(tmp_path / "a") == file_io.sha256(tmp_path / "a")
    table.close()


def output(folder: Path, table: StatTable) -> Manifest:
    (folder / "sub").mkdir(parents=True)
    (folder / "a.bin").write_bytes(bytes(range(256)))
    (folder / "sub" / "b.bin").write_bytes(b"b" * 100)
    found = manifest.scan(folder, table)
    made = Manifest("shard", "k" * 64, manifest.tree_digest(found), found, {"a": 1}, 0, {}, {}, "c", {}, [])
    manifest.write(folder, made)
    return made


def test_every_kind_of_damage_is_found_and_the_file_is_named(tmp_path):
    table = StatTable(tmp_path / "t.sqlite")
    whole = tmp_path / "whole"
    made = output(whole, table)
    assert manifest.verify(whole, table, fresh=True) == made == manifest.load(whole)

    def flip(folder):
        data = bytearray((folder / "a.bin").read_bytes())
        data[7] ^= 1
        (folder / "a.bin").write_bytes(data)

    damages = {
        "a.bin: its bytes differ": flip,
        "a.bin: has 255 bytes instead of 256": lambda folder: os.truncate(folder / "a.bin", 255),
        "sub/b.bin: is missing": lambda folder: os.unlink(folder / "sub" / "b.bin"),
        "more.bin: is not in the manifest": lambda folder: (folder / "more.bin").write_text("x"),
        "links and special files": lambda folder: os.symlink(whole / "a.bin", folder / "link.bin"),
        "manifest.json: not a valid manifest": lambda folder: os.truncate(folder / "manifest.json", 50),
        "has no manifest.json": lambda folder: os.unlink(folder / "manifest.json"),
        "the digest does not fit": lambda folder: (folder / "manifest.json").write_text(
            (folder / "manifest.json").read_text().replace('"bytes": 100', '"bytes": 101')),
    }
    for number, (message, damage) in enumerate(damages.items()):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        damage(folder)
        with pytest.raises(FewstepError, match=message):
            manifest.verify(folder, table)
    table.close()


def test_the_digest_is_of_the_files_alone_and_does_not_depend_on_their_order():
    one, two = File("a", 1, "x"), File("b", 2, "y")
    assert manifest.tree_digest([one, two]) == manifest.tree_digest((two, one)) != manifest.tree_digest([one])


def test_a_manifest_of_another_format_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(FewstepError, match="manifest format 99"):
        manifest.load(tmp_path)
    assert manifest.load(tmp_path / "absent") is None and manifest.load_quietly(tmp_path) is None


HOLD = '''
import sys, time
from pathlib import Path
from tasks.storage.locks import workspace_lock
from tasks.storage.workspace import Workspace
with workspace_lock(Workspace(Path(sys.argv[1])), "the-first-run"):
    print("held", flush=True)
    time.sleep(60)
'''


def test_the_lock_names_its_holder_and_is_free_when_that_dies(tmp_path):
    workspace = Workspace(tmp_path)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(Busy, match=f"the-first-run .process {holder.pid}.") as caught:     # noqa: SIM117
        with locks.workspace_lock(workspace, "b"):
            pass
    assert caught.value.exit_code == 5 and locks.holder(workspace)["run"] == "the-first-run"
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert locks.holder(workspace) is None
    with locks.workspace_lock(workspace, "b"), locks.workspace_lock(workspace, "b"):     # again in the same process
        pass
    assert locks.holder(workspace) is None


PARENT = '''
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c",
    "import os, time; from tasks.storage.locks import die_with_parent; die_with_parent(os.getppid());"
    "print(os.getpid(), flush=True); time.sleep(60)"])
time.sleep(60)
'''


def test_a_child_dies_with_its_parent():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and "zombie" not in Path(f"/proc/{child}/status").read_text():
        assert time.monotonic() < end, "the child outlived its parent"
        time.sleep(0.01)


def test_corrupt_data_is_data_that_differs():
    assert issubclass(CorruptData, FewstepError) and CorruptData("x").exit_code == 3
