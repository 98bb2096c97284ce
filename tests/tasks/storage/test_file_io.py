"""Hashes already taken are found again until a file changes."""

from __future__ import annotations

import os

import pytest

from fewstep.util.errors import SettingsError
from fewstep.util.hashing import sha256_file
from tasks.storage.file_io import StatTable, list_given


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


def test_links_in_what_is_given_are_followed_as_in_a_snapshot_of_the_hubs_cache(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    for folder in (blobs, snapshot / "unet", tmp_path / "elsewhere"):
        folder.mkdir(parents=True)
    for number, name in enumerate(("model_index.json", "unet/config.json")):
        (blobs / str(number)).write_text(name)
        (snapshot / name).symlink_to(os.path.relpath(blobs / str(number), (snapshot / name).parent))
    (tmp_path / "elsewhere" / "scheduler_config.json").write_text("{}")
    (snapshot / "scheduler").symlink_to(tmp_path / "elsewhere")
    assert list_given(snapshot) == ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json"]
    linked = tmp_path / "linked"
    linked.symlink_to(snapshot)
    assert list_given(linked) == list_given(snapshot)


def test_links_to_nothing_links_in_a_circle_and_special_files_are_named(tmp_path):
    path = tmp_path / "it"
    for make, words in ((lambda: path.symlink_to("nowhere"), "leads to nothing"),
                        (lambda: path.symlink_to(tmp_path), "holds it"),
                        (lambda: os.mkfifo(path), "neither a file nor a folder")):  # fmt: skip
        make()
        with pytest.raises(SettingsError, match=f"it: .*{words}"):
            list_given(tmp_path)
        path.unlink()
