"""What is kept by content is found again, and made again where the file is damaged."""

import os
import subprocess
import sys

import numpy as np

from fewstep.util.content_cache import ContentCache
from fewstep.util.files import TEMPORARY


def test_json_is_kept_by_its_key(tmp_path):
    cache = ContentCache(tmp_path / "cache")
    assert cache.get({"a": 1, "b": 2}) is None
    cache.put({"a": 1, "b": 2}, {"x": [1.5]})
    assert ContentCache(tmp_path / "cache").get({"b": 2, "a": 1}) == {"x": [1.5]} and cache.get({"a": 1}) is None
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:5])
    assert cache.get({"a": 1, "b": 2}) is None


def test_arrays_are_made_once_and_again_where_damaged(tmp_path):
    cache, made = ContentCache(tmp_path / "cache"), []

    def make():
        made.append(1)
        return {"x": np.arange(6.0).reshape(2, 3)}

    assert np.array_equal(cache.arrays("a", make)["x"], cache.arrays("a", make)["x"]) and len(made) == 1
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:20])
    cache.arrays("a", make)
    cache.arrays("a", make)
    assert len(made) == 2


def test_without_a_folder_nothing_is_kept():
    cache = ContentCache(None)
    cache.put("a", 1)
    assert cache.get("a") is None and cache.arrays("a", lambda: {"x": np.ones(1)})["x"] == 1


def test_what_a_dead_writer_left_is_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f"{TEMPORARY}{dead.pid}-x").write_text("half")
    ContentCache(tmp_path).put("a", 1)
    assert len(os.listdir(tmp_path)) == 1
