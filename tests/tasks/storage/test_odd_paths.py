"""Paths and addresses with characters that another syntax gives a meaning."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from fewstep.util.errors import SettingsError
from tasks.storage.dvc.dvc_config import Remote, default_remote
from tasks.storage.git import worktrees
from tasks.storage.workspace import Workspace, sqlite_address
from tasks.tracking.store_uri import missing_database, sqlite_file

ROOT = Path(__file__).parents[3]
NAMES = ["runs,2", "what?", "a#b", "50%", "%41", "two words", "x?y=1&uri=true", "quote\"d", "it's", "a;b", "[cache]",
         "été", "a=b", "file:", "$HOME", "@{u}"]  # fmt: skip
TRACK = """
import sys
from tasks.storage.workspace import Workspace
from tasks.tracking.mlflow_client import Tracking
from pathlib import Path
tracking = Tracking.of(Workspace(Path(sys.argv[1])))
run = tracking.client.create_run(tracking.experiment("x"))
Path(sys.argv[1], "note.txt").write_text("hello")
tracking.client.log_artifact(run.info.run_id, str(Path(sys.argv[1], "note.txt")))
print(tracking.download(f"runs:/{run.info.run_id}/note.txt", Path(sys.argv[1], "back")).read_text())
"""


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_address_of_a_database_is_read_as_sqlalchemy_reads_it(tmp_path, name, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workspace = Workspace(tmp_path / name)
    path = workspace.shared / "mlflow.db"
    path.parent.mkdir(parents=True)
    for driver in ("pysqlite", "aiosqlite"):
        address = sqlite_address(path, driver)
        assert sqlite_file(address) == missing_database(address) == path
    url = make_url(workspace.mlflow_uri)
    arguments, options = url.get_dialect()().create_connect_args(url)
    code = "import sqlite3, sys; sqlite3.connect(sys.argv[1], uri=sys.argv[2] == 'True').execute('create table t (x)')"
    subprocess.run([sys.executable, "-c", code, arguments[0], str(options.get("uri", False))], check=True, cwd=tmp_path)
    assert path.is_file() and missing_database(workspace.mlflow_uri) is None
    assert os.listdir(tmp_path) == [name]


def test_addresses_that_people_write_are_read():
    assert sqlite_file("sqlite:///a.db") == Path("a.db")
    assert sqlite_file("sqlite:////x/a.db?timeout=5") == Path("/x/a.db")
    assert sqlite_file("postgresql://u:p@h/d") is None and sqlite_file("http://h/x") is None


def test_mlflow_writes_nothing_outside_a_project_of_an_odd_name(tmp_path):
    root = tmp_path / "a,b?c#d%41 e%"
    root.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    done = subprocess.run([sys.executable, "-c", TRACK, str(root)], cwd=elsewhere, capture_output=True, text=True,
                          env=environment | {"PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.stdout.splitlines()[-1:] == ["hello"], done.stderr
    assert sorted(os.listdir(tmp_path)) == sorted([root.name, "elsewhere"]) and not os.listdir(elsewhere)
    assert (root / ".fewstep" / "mlflow.db").is_file()


@pytest.mark.parametrize("name", [name for name in NAMES if "/" not in name])
def test_a_worktree_shares_the_cache_of_a_project_of_any_name(tmp_path, name):
    from tasks.storage.dvc.dvc_repo import repository, share_cache

    main, other = Workspace(tmp_path / name), Workspace(tmp_path / "other")
    for workspace in (main, other):
        (workspace.root / ".dvc").mkdir(parents=True)
        (workspace.root / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    (main.root / ".dvc" / "config.local").write_text("['remote \"far\"']\n    url = s3://bucket/re%20mote\n")
    share_cache(main, other)
    with repository(other) as repo:
        assert Path(repo.cache.local.path) == main.root / ".dvc" / "cache" / "files" / "md5"
        assert repo.config["remote"]["far"]["url"] == "s3://bucket/re%20mote"


@pytest.mark.parametrize("given", [None, 0o600, 0o640])
def test_a_copy_of_the_local_settings_is_as_private_as_they_are(tmp_path, given):
    from tasks.storage.dvc.dvc_repo import share_cache

    main, other = Workspace(tmp_path / "main"), Workspace(tmp_path / "other")
    for workspace in (main, other):
        (workspace.root / ".dvc").mkdir(parents=True)
        (workspace.root / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    if given is not None:
        original = main.root / ".dvc" / "config.local"
        original.write_text("['remote \"far\"']\n    url = s3://b\n    secret_access_key = canary\n")
        original.chmod(given)
    share_cache(main, other)
    copy = other.root / ".dvc" / "config.local"
    assert copy.stat().st_mode & 0o777 == (given or 0o600) and ("canary" in copy.read_text()) == (given is not None)


@pytest.mark.parametrize("url", ["s3://bucket/re%20mote", "/mnt/50%", '"/a#b"', "/a;b", '"/a,b"'])
def test_the_address_of_a_remote_is_read_as_dvc_reads_it(tmp_path, url):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text(f"[core]\n    remote = far\n['remote \"far\"']\n    url = {url}\n")
    assert default_remote(Workspace(tmp_path)) == Remote("far", url.strip('"'))
    (tmp_path / ".dvc" / "config.local").write_text("['remote \"far\"']\n    endpointurl = http://h:9000\n")
    assert default_remote(Workspace(tmp_path)).endpoint == "http://h:9000"


@pytest.mark.parametrize("text", ["[core\n", "[core]\n    remote = far\n['remote \"far\"']\n    url = /a,b\n"])
def test_a_configuration_that_is_none_is_named(tmp_path, text):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text(text)
    with pytest.raises(SettingsError, match="dvc"):
        default_remote(Workspace(tmp_path))


@pytest.mark.parametrize("name", ["a\u2028b", " blanks ", "a\x0bb\x1cc", "caf\udce9", "tab\t"])
def test_a_worktree_is_found_whatever_its_folder_is_called(tmp_path, name):
    root = tmp_path / name
    root.mkdir()
    git(root, "init", "-q")
    (root / "a").write_text("a")
    git(root, "add", "a")
    git(root, "commit", "-qm", "a")
    git(root, "worktree", "add", "-q", "--detach", str(tmp_path / f"{name}-2"))
    main, other = Workspace(root), Workspace(tmp_path / f"{name}-2")
    assert main.is_main and not other.is_main and other.shared == main.local
    assert set(worktrees(main)) == set(worktrees(other)) == {main.root, other.root}
