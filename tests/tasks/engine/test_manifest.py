"""Manifests: every kind of damage to an output is found and named."""

from __future__ import annotations

import hashlib
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
    made = Manifest(stage="shard", key="k" * 64, digest=manifest.tree_digest(found), files=found, settings={"a": 1},
                    seed=0, inputs={}, given={}, code="c", versions={}, fingerprint=())
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
    one, two = File(path="a", bytes=1, sha256="x"), File(path="b", bytes=2, sha256="y")
    assert manifest.tree_digest([one, two]) == manifest.tree_digest((two, one)) != manifest.tree_digest([one])


def test_a_manifest_of_another_format_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(FewstepError, match="manifest format 99"):
        manifest.load(tmp_path)
    assert manifest.load(tmp_path / "absent") is None and manifest.load_quietly(tmp_path) is None


def test_corrupt_data_is_data_that_differs():
    assert issubclass(CorruptData, FewstepError) and CorruptData("x").exit_code == 3


def test_a_manifest_of_the_first_format_is_read(tmp_path):
    """As fewstep 0.1 wrote it before code was told by its syntax tree."""
    (tmp_path / "a.bin").write_bytes(b"a")
    file = {"path": "a.bin", "bytes": 1, "sha256": hashlib.sha256(b"a").hexdigest()}
    old = {"stage": "teacher", "key": "1" * 64, "digest": "", "files": [file], "settings": {"channels": [32, 32]},
           "seed": 0, "inputs": {"shard": {"key": "2" * 64, "digest": "3" * 64}}, "given": {}, "code": "4" * 64,
           "versions": {"python": "3.11"}, "fingerprint": [{"machine": "x86_64", "cuda": None}], "summary": {"a": 0.5},
           "format": 1}  # fmt: skip
    old["digest"] = manifest.tree_digest([manifest.File(**file)])
    (tmp_path / "manifest.json").write_text(json.dumps(old))
    loaded = manifest.verify(tmp_path, StatTable(tmp_path.with_name("t.sqlite")))
    assert loaded.inputs["shard"].digest == "3" * 64 and loaded.code_files == {} and loaded.accepted == ()
    assert loaded.made_by("4" * 64) and not loaded.made_by("5" * 64)
