"""What the first start of a run leaves in an empty workspace: the tables of Prefect and MLflow, and the code as parsed.

Making them takes a third of a small run's processor time. One process of the tests does it for all, and each project
has a copy. Workspaces of `fewstep init` begin with nothing, as a user's do.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.storage.locks import held

_FILES = ("prefect/prefect.db", "mlflow.db", "parsed.json")
_MAKE = """
import sys
from pathlib import Path
from flows.orchestration.prefect_api import start_prefect
from tasks.engine.stage_code import running_tree
from tasks.storage.workspace import Workspace
from tasks.tracking.mlflow_client import Tracking

workspace = Workspace(Path(sys.argv[1]))
server = start_prefect(workspace, workspace.root / "prefect.log")
Tracking.of(workspace).opened()
running_tree(workspace)
server.wait("/api/health", "Prefect")
server.stop()
"""
_place: Path | None = None
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def first_start(tmp_path_factory) -> Iterator[None]:
    """Lets `started` find, or make, the files of this run of the tests."""
    global _place
    own = tmp_path_factory.getbasetemp()
    _place = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "first-start"
    yield
    _place = None


def started(root: Path) -> None:
    """Puts them into the workspace in `root`; nothing outside of pytest."""
    if _place is None:
        return
    with held(_place.with_suffix(".lock")):
        if not _place.exists():
            _make(_place.with_suffix(".partial"))
            _place.with_suffix(".partial").rename(_place)
    for name in _FILES:
        target = root / ".fewstep" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(_place / ".fewstep" / name, target)


def _make(root: Path) -> None:
    root.mkdir()
    (root / "params.yaml").touch()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    subprocess.run([sys.executable, "-c", _MAKE, root], cwd=ROOT, env=environment, check=True)
    for name in _FILES[:2]:
        with contextlib.closing(sqlite3.connect(root / ".fewstep" / name)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            if name == "mlflow.db":     # the experiment that MLflow makes by itself names a folder of this place
                database.execute("DELETE FROM experiments")
            database.commit()
