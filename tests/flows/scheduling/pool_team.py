"""A person's clone, a work pool, and what its workers share: a git server, a bucket, MLflow, Prefect, and no path."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tasks.storage.locks import die_with_parent
from tests.flows.conftest import make_project
from tests.flows.runs.test_two_hosts import Host
from tests.git_daemon import git_daemon
from tests.mlflow_server import mlflow_server
from tests.prefect_server import PrefectServer, prefect_server
from tests.s3_server import BUCKET, S3Server

POOL, NAME, FINAL = "gpus", "nightly", ("Completed", "Failed", "Crashed", "Cancelled")
_SETTLE = """
import sys
from tasks.storage.workspace import Workspace
from tasks.tracking.run_records import RunStore
from flows.orchestration.flow_run_states import settle_flow_runs
workspace = Workspace.find()
print(settle_flow_runs(workspace, RunStore(workspace), silence=float(sys.argv[1])))
"""


def until(condition: Callable[[], Any], *processes: subprocess.Popen) -> Any:
    """What `condition` returns once it is true, while these processes live."""
    while not (found := condition()):
        for process in processes:
            assert process.poll() is None, process.communicate()
        time.sleep(0.3)
    return found


class Worker:
    """A worker on a host of its own: its folder holds nothing of the project, and neither does its PYTHONPATH.
    `within`: a command that it is run in."""

    def __init__(self, folder: Path, environment: dict[str, str], within: tuple[str, ...] = ()):
        self.name = folder.name
        folder.mkdir()
        own = {**environment, "FEWSTEP_HOST": self.name, "HOME": str(folder), "PREFECT_HOME": str(folder / "prefect"),
               "PREFECT_WORKER_HEARTBEAT_SECONDS": "2", "PREFECT_WORKER_QUERY_SECONDS": "2", "PYTHONPATH": ""}
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
        with open(folder / "worker.log", "w") as log:
            self.process = subprocess.Popen([*within, *command, "--name", self.name], cwd=folder, env=own, stdout=log,
                                            stderr=log, start_new_session=True, preexec_fn=die_with_parent)

    def _all(self) -> list[psutil.Process]:
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]

    def stop(self) -> None:
        """Its processes stand still, as those of a host whose power fails the next moment."""
        for process in self._all():
            process.suspend()

    def kill(self) -> None:
        """SIGKILL of all its processes: a host without power."""
        self.stop()
        for process in self._all():
            process.kill()
        self.process.wait()

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()


class PoolTeam:
    """The person's clone and the servers.

    Attributes:
        server: Prefect's, which every worker talks to.
        mlflow: address of MLflow's.
    """

    def __init__(self, folder: Path, server: PrefectServer, mlflow: str, shared: dict[str, str]):
        self.folder, self.server, self.mlflow = folder, server, mlflow
        self.person = Host(make_project(folder / "person").root)
        self.person.shared = shared
        self.steering = folder / "steering"     # of the synthetic stages, wherever they run
        self.steering.mkdir()

    def control(self, **stages) -> None:
        (self.steering / "control.json").write_text(json.dumps(stages))

    def journal(self) -> list[list[str]]:
        path = self.steering / "journal.txt"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def python(self, code: str, *arguments: str) -> str:
        done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=self.person.root, text=True,
                              env=self.person.environment(), capture_output=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def settle(self, silence: float = 0) -> str:
        """What `fewstep reconcile` does to flow runs, and to those that so many seconds were silent."""
        return self.python(_SETTLE, str(silence))

    def worker(self, name: str) -> Worker:
        return Worker(self.folder / name, self.person.environment())

    def schedule(self) -> None:
        """Makes the pool and deploys the schedule to it."""
        self.person.git("push", "-q", "origin", "main")
        self.server.ask("work_pools/", {"name": POOL, "type": "process"})
        self.person.fewstep("schedule", "--name", NAME, "--cron", "0 3 1 1 *", "--pool", POOL)

    def trigger(self, **overrides) -> str:
        deployment = self.server.deployments()[NAME]["id"]
        asked = {"state": {"type": "SCHEDULED"}, "parameters": {"overrides": overrides}}
        return self.server.ask(f"deployments/{deployment}/create_flow_run", asked)["id"]

    def state(self, run: str) -> str:
        return self.server.ask(f"flow_runs/{run}")["state"]["name"]


@contextmanager
def pool_team(folder: Path, s3: S3Server, prefix: str) -> Iterator[PoolTeam]:
    """The team, whose store lies below `prefix`; nothing is pushed or deployed yet."""
    served = folder / "served"
    for name in ("mlflow", "served/project.git"):
        (folder / name).mkdir(parents=True)
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(served / "project.git")], check=True)
    with mlflow_server(folder / "mlflow", f"sqlite:///{folder}/mlflow/server.db") as mlflow, \
            git_daemon(served) as git, prefect_server(folder / "prefect") as server:
        shared = {**s3.environment, "MLFLOW_TRACKING_URI": mlflow, "PREFECT_API_URL": server.api,
                  "SYNTHETIC_FOLDER": str(folder / "steering")}  # fmt: skip
        team = PoolTeam(folder, server, mlflow, shared)
        root = team.person.root
        remote = f"['remote \"s\"']\n    url = s3://{BUCKET}/{prefix}\n[core]\n    remote = s\n"
        (root / ".dvc/config").write_text(remote)
        params = (root / "params.yaml").read_text()
        (root / "params.yaml").write_text(params.replace("profile: local", "profile: server"))
        team.person.git("commit", "-q", "-a", "-m", "a store for all")
        team.person.git("remote", "add", "origin", f"{git}/project.git")
        yield team
