"""A run of the profile `server` whose servers stop, and come back, while it works and at the ends of its stages."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import pytest
from mlflow.tracking import MlflowClient

from tasks.engine import graph
from tests.faults.failing_proxy import FailingProxy, failing_proxy
from tests.flows.conftest import Project, make_project
from tests.mlflow_server import mlflow_server
from tests.postgres import Postgres
from tests.prefect_server import PrefectServer, prefect_server
from tests.s3_server import BUCKET, S3Server

pytestmark = [pytest.mark.faults, pytest.mark.timeout(0)]
PREFIX = "team"


@dataclass
class Team:
    """The servers of a team, and a clone that uses them."""

    postgres: Postgres
    s3: S3Server
    prefect: PrefectServer
    mlflow: FailingProxy
    project: Project
    environment: dict[str, str]
    settings: int = 0

    def prefects_processes(self) -> list[psutil.Process]:
        port = self.prefect.api.rpartition(":")[2].partition("/")[0]
        (first, *_) = (process for process in psutil.Process().children() if port in process.cmdline())
        return [first, *first.children(recursive=True)]

    def run_through(self, away: Callable[[], None], back: Callable[[], None], seconds: float,
                    ends: bool = False) -> None:  # fmt: skip
        """A run that meets, while it distills, what `away` does, for so many seconds; a unit of the stage ends in them.

        `ends`: the stage does too.
        """
        self.settings += 1
        self.project.control(distill={"seconds": 10**6})
        before = len(self.project.journal())
        process = self.project.start("run", "--json", "--set", f"distill.images={100_000 + self.settings}",
                                     **self.environment)
        while not any(stage == "distill" for stage, *_ in self.project.journal()[before:]):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        away()
        try:
            self.project.control(distill={"seconds": 0 if ends else 0.6 * seconds})     # since the unit began
            time.sleep(seconds)     # the length of the fault; nothing is measured by it
        finally:
            back()
        self.project.control()
        out, err = process.communicate()
        assert process.returncode == 0, out + err
        self._check(json.loads(out), self.project.journal()[before:])

    def _check(self, result: dict, journal: list[list[str]]) -> None:
        """Nothing was lost, and nothing is there twice."""
        assert result["state"] == "finished" and result["stages"]["distill"]["state"] == "made"
        units = [tuple(line[:2]) for line in journal]
        assert len(set(units)) == len(units), f"done twice: {units}"
        for stage in graph.IN_DVC:
            manifest = json.loads((self.project.root / stage.output / "manifest.json").read_text())
            name = f"{PREFIX}/fewstep/{manifest['key']}.json"
            assert json.loads(self.s3.read(name))["digest"] == manifest["digest"], stage.name
        assert self.project.json("verify")["warnings"] == []
        client = MlflowClient(self.mlflow.url)
        runs = client.search_runs([item.experiment_id for item in client.search_experiments()])
        (parent,) = (run for run in runs if run.info.run_name == result["run"])
        assert parent.info.status == "FINISHED"
        mine = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
        (distill,) = (run for run in mine if run.data.tags["fewstep.stage"] == "distill")
        steps = [metric.step for metric in client.get_metric_history(distill.info.run_id, "loss")]
        assert steps == sorted(set(steps)) and len(steps) == 3
        (flow,) = self.prefect.flow_runs(name=result["run"])
        assert flow["state_name"] == "Completed"


@pytest.fixture(scope="module")
def team(tmp_path_factory, postgres):
    folder = tmp_path_factory.mktemp("team")
    for name in ("mlflow", "prefect"):
        (folder / name).mkdir()
    postgres.new("faults_prefect")
    s3 = S3Server(folder / "s3")
    s3.start()
    database = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": postgres.url("faults_prefect", "postgresql+asyncpg")}
    with (prefect_server(folder / "prefect", **database) as prefect,
          mlflow_server(folder / "mlflow", postgres.new("faults_mlflow"), f"s3://{BUCKET}/mlflow",
                        **s3.environment) as url, failing_proxy(url) as mlflow):  # fmt: skip
        project = make_project(folder / "project")
        subprocess.run([sys.executable, "-m", "dvc", "remote", "add", "-q", "-f", "-d", "store",
                        f"s3://{BUCKET}/{PREFIX}"], cwd=project.root, check=True)  # fmt: skip
        project.git("commit", "-qam", "a remote")
        environment = {**s3.environment, "PREFECT_API_URL": prefect.api, "MLFLOW_TRACKING_URI": mlflow.url}
        project.fewstep("run", "--set", "profile=server", **environment)
        yield Team(postgres, s3, prefect, mlflow, project, environment)
    s3.stop()


def test_postgresql_is_away(team, seen):
    team.run_through(team.postgres.stop, team.postgres.start, 20)
    seen(fault="PostgreSQL, under Prefect and MLflow, stopped for 20 s in a stage", code=0)


def test_s3_is_away(team, seen):
    team.run_through(team.s3.stop, team.s3.start, 30)
    seen(fault="S3 killed, back after 30 s, in a stage", code=0)


def test_prefect_is_stopped_at_the_end_of_a_stage(team, seen):
    def send(number: int) -> Callable[[], None]:
        return lambda: [process.send_signal(number) for process in team.prefects_processes()]

    team.run_through(send(signal.SIGSTOP), send(signal.SIGCONT), 60, ends=True)
    seen(fault="Prefect's server stopped (SIGSTOP) for 60 s, in which a stage ends", code=0)


def test_mlflow_answers_500(team, seen):
    def set_failing(value: bool) -> Callable[[], None]:
        return lambda: setattr(team.mlflow, "failing", value)

    team.run_through(set_failing(True), set_failing(False), 45)
    assert team.mlflow.refused
    seen(fault="MLflow answers 500 for 45 s in a stage", code=0)
