"""dvc.lock is taken in the form that DVC writes, whole, and followed nowhere it cannot lead."""

import pytest

from fewstep.util.errors import SettingsError
from tasks.engine import graph
from tasks.storage.dvc import dvc_cache, dvc_lockfile
from tasks.storage.workspace import Workspace

MD5 = "0123456789abcdef0123456789abcdef"
LOCK = f"""schema: '2.0'
stages:
  shard:
    cmd: fewstep stage run shard
    deps:
    - path: fewstep
      hash: md5
      md5: {MD5}.dir
      size: 1
      nfiles: 1
    params:
      params.yaml:
        data: {{source: digits}}
        seed: 0
    outs:
    - path: data/shards
      hash: md5
      md5: {MD5}.dir
      size: 1
      nfiles: 1
"""


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "dvc.lock").write_text(LOCK)
    return Workspace(tmp_path)


def test_the_form_that_dvc_writes_is_taken(workspace):
    assert dvc_lockfile.lock_entries(workspace)["shard"]["outs"][0]["md5"] == f"{MD5}.dir"
    assert dvc_cache.locked_md5(workspace.root / "dvc.lock", "data/shards") == f"{MD5}.dir"
    assert dvc_cache.locked_md5(workspace.root / "dvc.lock", "fewstep", "deps") == f"{MD5}.dir"


@pytest.mark.parametrize(("before", "after", "said"), [
    ("schema: '2.0'\n", "", "schema: missing"), ("'2.0'", "'3.0'", "schema: expected 2.0, got '3.0'"),
    ("  shard:\n", "<<<<<<< HEAD\n  shard:\n", "not readable as YAML"),
    (f"md5: {MD5}.dir", "md5: ../../x", "md5: expected"), ("deps:\n    -", "deps:\n     ", "deps: expected a list"),
    ("path: data/shards", "path: 1", "outs.0.path: expected text"), (" seed: 0", " seed: 2020-02-31", "cannot be read"),
    ("    outs:", "    outs: []\n    outs:", "duplicate key"),
    ("params.yaml:\n", "params.yaml: []\n      x:\n", "params.params.yaml: expected a mapping"),
])  # fmt: skip
def test_another_form_is_refused_with_its_place(workspace, before, after, said):
    path = workspace.root / "dvc.lock"
    assert before in LOCK
    path.write_text(LOCK.replace(before, after, 1))
    for read in (lambda: dvc_lockfile.lock_entries(workspace), lambda: dvc_cache.locked_md5(path, "data/shards")):
        with pytest.raises(SettingsError) as caught:
            read()
        assert str(path) in str(caught.value) and said in str(caught.value) and "remove dvc.lock" in caught.value.hint


@pytest.mark.parametrize("path", ["/", "..", "../other", "/etc", ".", ".git", "x" * 300, "data/../.."])
def test_what_lies_outside_the_checkout_is_not_hashed(workspace, path, monkeypatch):
    monkeypatch.setattr(dvc_lockfile, "dvc_md5", lambda path: pytest.fail(f"{path} was read"))
    (workspace.root / "dvc.lock").write_text(LOCK.replace("path: fewstep", f"path: {path}"))
    entries = dvc_lockfile.lock_entries(workspace)
    params = {"seed": 0, "data": {"source": "digits"}}
    assert not dvc_lockfile.claims_current(workspace, graph.stage("shard"), params, entries, set())


def test_what_comes_from_outside_by_the_settings_is_hashed(workspace, tmp_path_factory):
    given = tmp_path_factory.mktemp("given") / "images"
    given.write_text("x")
    (workspace.root / "dvc.lock").write_text(LOCK.replace("path: fewstep", f"path: {given}").replace(
        f"{MD5}.dir", dvc_lockfile.dvc_md5(given), 1))  # fmt: skip
    entries, params = dvc_lockfile.lock_entries(workspace), {"seed": 0, "data": {"source": "digits"}}
    for named, claimed in (({str(given)}, True), (set(), False)):
        assert dvc_lockfile.claims_current(workspace, graph.stage("shard"), params, entries, named) is claimed
