"""Hashes already taken are found again until a file changes."""

from __future__ import annotations

import os

from fewstep.util.hashing import sha256_file
from tasks.storage.file_io import StatTable


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
    assert table.sha256(tmp_path / "a") == table.sha256(tmp_path / "a") == sha256_file(tmp_path / "a")
    table.close()
