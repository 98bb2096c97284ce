"""A project whose stages do next to nothing: the real command, Prefect, DVC, MLflow and git around them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fewstep.util.files import write_atomically
from tasks.engine.graph import STAGES
from tests.first_start import started
from tests.profiles import servers

ROOT = Path(__file__).resolve().parents[2]
SEQUENTIAL = ("teacher", "distill")


class Project:
    """A git repository with the project's code, synthetic stages and nothing made yet.

    Attributes:
        servers: what the environment says of those that it uses; none under the profile `local`.
    """

    servers: dict[str, str] = {}

    def __init__(self, root: Path):
        self.root = root

    def environment(self, **more: str) -> dict[str, str]:
        dropped = ("PREFECT_", "MLFLOW_TRACKING", "DVC_STAGE", "PYTEST_", "GIT_")
        values = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        path = os.pathsep.join(filter(None, [str(self.root), os.environ.get("PYTHONPATH")]))
        return values | {"PYTHONPATH": path, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "COLUMNS": "80",
                         "OMP_NUM_THREADS": "1"} | self.servers | more

    def start(self, *arguments: str, **more: str) -> subprocess.Popen:
        """`fewstep ARGUMENTS` in the background."""
        return subprocess.Popen([sys.executable, "-m", "flows.cli", *arguments], cwd=self.root, text=True,
                                env=self.environment(**more), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                stdin=subprocess.DEVNULL)

    def fewstep(self, *arguments: str, code: int | None = 0, **more: str) -> subprocess.CompletedProcess:
        """`fewstep ARGUMENTS`, whose exit code must be `code` (None: any)."""
        process = self.start(*arguments, **more)
        out, err = process.communicate()
        assert code is None or process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def json(self, *arguments: str, **keywords):
        return json.loads(self.fewstep(*arguments, "--json", **keywords).stdout)

    def control(self, **stages: dict) -> None:
        write_atomically(self.root / "control.json", json.dumps(stages))    # units under way read it meanwhile

    def journal(self) -> list[list[str]]:
        """The units that were begun: [stage, unit, pid]."""
        path = self.root / "journal.txt"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def git(self, *arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=self.root, check=True, capture_output=True, text=True).stdout


def make_project(root: Path) -> Project:
    for name in ("fewstep", "tasks", "flows", "infra"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml", "prefect.yaml", "pyproject.toml", ".gitignore", "constraints.txt"):
        shutil.copy(ROOT / name, root / name)
    (root / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", root / ".dvc" / "config")
    for name in (".dvc/.gitignore", ".dvcignore"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, root / name)
    source = Path(__file__).with_name("synthetic.py").read_text()
    for stage in STAGES:
        path = root / f"{type(stage).__module__.replace('.', '/')}.py"
        text = source.replace("CLASS", type(stage).__name__).replace("PARALLEL", str(stage.name not in SEQUENTIAL))
        path.write_text(path.read_text() + text)
    (root / ".gitignore").write_text((ROOT / ".gitignore").read_text() + "/control.json\n/journal.txt\n")
    project = Project(root)
    project.servers = servers.join(root)
    started(root)
    project.git("init", "-q", "-b", "main", ".")
    project.git("config", "user.email", "test@localhost")
    project.git("config", "user.name", "test")
    project.git("add", "-A")
    project.git("commit", "-q", "-m", "start")
    return project


@pytest.fixture
def project(tmp_path):
    return make_project(tmp_path / "project")


@pytest.fixture(scope="module")
def shared_project(tmp_path_factory):
    """One project for a module's tests, in the order in which they stand."""
    return make_project(tmp_path_factory.mktemp("shared") / "project")
