"""A whole project in a temporary folder: this tree's files, its own git history, DVC cache and tiny settings."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tasks.storage.workspace import CODE, Workspace
from tests.first_start import started
from tests.profiles import servers

ROOT = Path(__file__).resolve().parents[1]

TINY = {
    "teacher.parts": 1, "teacher.images": 768, "teacher.batch": 32, "teacher.channels": "[16, 16]",
    "teacher.check.samples": 64, "teacher.check.steps": 4, "teacher.check.max_distance_ratio": 100.0,
    "trajectories.count": 96, "trajectories.steps": 4, "trajectories.record_size": 16,
    "trajectories.records_per_shard": 2,
    "distill.images": 768, "distill.batch": 32, "distill.parts": 1,
    "evaluate.samples": 64, "evaluate.batch": 32, "evaluate.steps": "[1, 2]", "evaluate.baseline_steps": "[1, 2]",
    "evaluate.classifier.images": 1024, "evaluate.grid": 4,
    "register.floors.max_distance_ratio": "null", "register.floors.min_class_accuracy": "null",
    "register.floors.min_recall": "null", "register.floors.max_copies": "null",
}


def checkout_in(folder: Path) -> Workspace:
    """The workspace in `folder` as one that holds its code: the folders are there, and empty."""
    for name in CODE:
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "__init__.py").touch()
    return Workspace(folder)


def _git(folder: Path, *args: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
    done = subprocess.run(["git", *identity, *args], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


class Project:
    """A checkout of this working tree that commands are run in, as its user would.

    Attributes:
        servers: what the environment says of those that it uses; none under the profile `local`.
    """

    servers: dict[str, str] = {}

    def __init__(self, folder: Path, settings: dict[str, object] | None = None):
        self.folder = folder
        folder.mkdir(parents=True)
        listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True,
                                check=True).stdout.decode().split("\0")
        for name in filter(None, listed):
            source = ROOT / name
            if source.is_file() and not name.startswith(("tests/", "benchmarks/")) and name != "dvc.lock":
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
        self.servers = servers.join(folder)
        started(folder)
        _git(folder, "init", "-q", "-b", "main")
        if settings is not None:
            self.set(settings)
        _git(folder, "add", "-A")
        _git(folder, "commit", "-qm", "a project to test with")

    def set(self, settings: dict[str, object]) -> None:
        """Changes params.yaml through the same code as `--set`."""
        code = ("import sys; from pathlib import Path; from tasks.config.params_file import write_overrides; "
                "write_overrides(Path('params.yaml'), sys.argv[1:], None)")
        sets = [f"{key}={value}" for key, value in settings.items()]
        done = subprocess.run([sys.executable, "-c", code, *sets], cwd=self.folder, env=self.environment(),
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def environment(self, **more: str) -> dict[str, str]:
        clean = {key: value for key, value in os.environ.items()
                 if not key.startswith(("PREFECT_", "MLFLOW_", "DVC_", "FEWSTEP_", "AWS_"))}
        return {**clean, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1",
                "COLUMNS": "100", **self.servers, **more}

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "flows.cli", *args]

    def run(self, *args: str, **environment: str) -> subprocess.CompletedProcess:
        """Runs `fewstep *args` to its end."""
        return subprocess.run(self.command(*args), cwd=self.folder, env=self.environment(**environment),
                              capture_output=True, text=True)

    def check(self, *args: str, **more) -> str:
        """Runs `fewstep *args`, which must succeed; its standard output."""
        done = self.run(*args, **more)
        assert done.returncode == 0, f"fewstep {' '.join(args)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, *args: str, log: Path | None = None, **environment: str) -> subprocess.Popen:
        """Starts `fewstep *args` in a process group of its own."""
        out = open(log or self.folder.parent / f"{self.folder.name}-{time.monotonic_ns()}.log", "w")  # noqa: SIM115
        return subprocess.Popen(self.command(*args), cwd=self.folder, env=self.environment(**environment),
                                stdout=out, stderr=subprocess.STDOUT, start_new_session=True)

    def digests(self) -> dict[str, str]:
        """Digest of every published output."""
        found = {}
        for path in sorted((self.folder / "data").glob("*/manifest.json")):
            found[path.parent.name] = json.loads(path.read_text())["digest"]
        return found


def kill_group(process: subprocess.Popen) -> None:
    """SIGKILL of a process and all its children in its group; waits for it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()
