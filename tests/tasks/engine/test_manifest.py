"""Manifests: every kind of damage to an output is found and named."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from fewstep.util.errors import CorruptData, FewstepError
from tasks.engine import manifest
from tasks.engine.manifest import File, Manifest
from tasks.storage.file_io import StatTable


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


def test_corrupt_data_is_data_that_differs():
    assert issubclass(CorruptData, FewstepError) and CorruptData("x").exit_code == 3
