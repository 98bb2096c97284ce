"""A project whose data and record are in an object store: the record is in the backup, the data is named there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fewstep.util.errors import NotAvailable, SettingsError
from tasks.backup.backup import back_up
from tasks.backup.restore import restore
from tasks.storage.object_store import Store
from tasks.storage.workspace import Workspace
from tests.registry_world import with_database

ENTRY = "records/fewstep-digits-1/00000001.json"


def project(folder: Path, remote: str) -> Workspace:
    """A checkout with a folder of three files under DVC, and one commit."""
    raw = folder / "data" / "raw"
    raw.mkdir(parents=True)
    for number in range(3):
        (raw / f"{number}.txt").write_text(str(number) * 100)
    (folder / "params.yaml").write_text("name: toy\n")
    (folder / "dvc.yaml").write_text("stages: {}\n")
    dvc, git = [sys.executable, "-m", "dvc"], ["git", "-c", "user.name=t", "-c", "user.email=t@t.invalid"]
    for command in (["git", "init", "-q"], [*dvc, "init", "-q"], [*dvc, "remote", "add", "-q", "-d", "store", remote],
                    [*dvc, "add", "-q", "data/raw"], ["git", "add", "-A"], [*git, "commit", "-qm", "start"],
                    [*dvc, "push", "-q"]):  # fmt: skip
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return Workspace(folder)


def test_the_record_is_copied_and_brought_back_where_it_is_lost(tmp_path, s3_server, s3_prefix, monkeypatch):
    here, store = project(tmp_path / "here", s3_prefix), Store(f"{s3_prefix}/fewstep")
    with_database(here.shared)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)     # where MLflow notes the store it used last
    store.put_if_absent(ENTRY, b'{"event": "promoted"}')
    made = back_up(here, tmp_path / "backup", set())
    assert made.remote == s3_prefix and len(made.needed) == 4 and made.absent == ()
    assert not (tmp_path / "backup" / "objects").exists() and made.databases == ("mlflow",)
    assert (tmp_path / "backup").stat().st_mode & 0o077 == 0

    store.delete([ENTRY])
    there = Workspace(tmp_path / "there")
    subprocess.run(["git", "clone", "-q", here.root, there.root], check=True)
    restore(there, tmp_path / "backup")
    assert store.read(ENTRY) == b'{"event": "promoted"}' and (there.shared / "mlflow.db").is_file()

    lost = f"{s3_prefix.removeprefix('s3://fewstep/')}/files/md5/"
    s3_server.client.delete_object(Bucket="fewstep", Key=next(iter(s3_server.names(lost))))
    again = back_up(here, tmp_path / "again", set())
    assert len(again.absent) == 1


def test_a_server_whose_database_is_not_named_stops_it_before_anything_is_written(tmp_path, monkeypatch):
    here = Workspace(tmp_path)
    for variable, server, name in (("MLFLOW_TRACKING_URI", "MLflow", "MLFLOW_BACKEND_STORE_URI"),
                                   ("PREFECT_API_URL", "Prefect", "PREFECT_SERVER_DATABASE_CONNECTION_URL")):
        with monkeypatch.context() as patch:
            patch.setenv(variable, "http://127.0.0.1:9/api")
            with pytest.raises(SettingsError, match=f"{server} at .* is a server") as refused:
                back_up(here, tmp_path / "backup", set())
        assert name in refused.value.hint and not (tmp_path / "backup").exists()
    with pytest.raises(NotAvailable, match="this is no backup"):
        restore(here, tmp_path / "backup")
