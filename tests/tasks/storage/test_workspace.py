"""Which folders belong to a checkout, and which to all worktrees of its repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fewstep.util.errors import SettingsError
from tasks.storage.workspace import Workspace

ROOT = Path(__file__).parents[3]


def project(folder):
    folder.mkdir(parents=True)
    for name in ("params.yaml", "dvc.yaml"):
        (folder / name).write_text("{}\n")
    return folder


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_found_from_any_folder_below(tmp_path):
    root = project(tmp_path / "p")
    (root / "data" / "x").mkdir(parents=True)
    assert Workspace.find(root / "data" / "x").root == root
    with pytest.raises(SettingsError, match="no params.yaml"):
        Workspace.find(tmp_path)


def test_a_colon_in_the_path_is_refused_by_name_before_any_work(tmp_path):
    root = project(tmp_path / "12:30" / "p")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for command in (["run", "--dry-run"], ["status"], ["stage", "run", "shard"], ["doctor"]):
        done = subprocess.run([sys.executable, "-m", "flows.cli", *command], cwd=root, capture_output=True, text=True,
                              env=environment)  # fmt: skip
        assert done.returncode == 2 and done.stderr.startswith(f"error: {root}: the path holds ':'"), done.stderr
    assert sorted(path.name for path in root.iterdir()) == ["dvc.yaml", "params.yaml"]


def test_worktrees_share_the_main_checkouts_state_also_below_the_top(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = project(tmp_path / "repository" / "inner")
    git(root.parent, "init", "-q")
    git(root.parent, "add", "-A")
    git(root.parent, "commit", "-qm", "x")
    git(root.parent, "worktree", "add", "-q", str(tmp_path / "tree"))
    main, other = Workspace.find(root), Workspace.find(tmp_path / "tree" / "inner")
    assert main.is_main and not other.is_main
    assert main.shared == other.shared == root / ".fewstep"
    assert other.local == tmp_path / "tree" / "inner" / ".fewstep" and other.partial.parent == other.local
    assert other.mlflow_uri == f"sqlite:///{root}/.fewstep/mlflow.db"


def test_without_git_a_checkout_stands_alone(tmp_path):
    assert Workspace.find(project(tmp_path / "p")).is_main
