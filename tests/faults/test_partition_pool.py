"""A worker of a Prefect work pool that sees nothing of the project and loses its link while it works."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import psutil
import pytest

from tests import netns
from tests.faults.two_projects import TwoProjects, relayed
from tests.flows.scheduling.pool_team import POOL, Worker
from tests.git_daemon import git_daemon
from tests.mlflow_server import mlflow_server
from tests.prefect_server import prefect_server

pytestmark = [pytest.mark.faults, pytest.mark.timeout(0),
              pytest.mark.skipif(not netns.AVAILABLE, reason=netns.WHY_NOT)]  # fmt: skip
RANKS = "tasks.engine.group.ranks"
SOONER = "from flows.orchestration.silent_runs import ensure_automations; ensure_automations(silence=50)"
"""Heartbeats come each 30 s."""


class Team(TwoProjects):
    """The same, another host, and workers there or here."""

    host: netns.Host
    environment: dict[str, str]

    def worker(self, name: str, within: tuple[str, ...]) -> Worker:
        """On a host of its own."""
        own = {**self.project.environment(**self.environment), "FEWSTEP_UNIT_CACHE": str(self.folder / f"cache-{name}")}
        return Worker(self.folder / name, own, within)

    @property
    def here(self) -> tuple[str, ...]:
        """A command that a worker on this host is run by, which does not see the project either."""
        return ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs none "{self.hidden}" && exec "$@"', "sh")


@pytest.fixture
def team(s3_server, s3_prefix, tmp_path) -> Iterator[Team]:
    made = Team(tmp_path, s3_server, s3_prefix)
    (tmp_path / "mlflow").mkdir()
    served = tmp_path / "served"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(served / "project.git")], check=True)
    with ExitStack() as stack:
        made.host = stack.enter_context(netns.host())
        stack.callback(end_all, made.host)
        mlflow = mlflow_server(tmp_path / "mlflow", f"sqlite:///{tmp_path}/mlflow/server.db")
        prefect = stack.enter_context(prefect_server(tmp_path / "prefect"))
        prefect.ask("work_pools/", {"name": POOL, "type": "process"})
        urls = (s3_server.url, stack.enter_context(mlflow), prefect.api, stack.enter_context(git_daemon(served)))
        s3, mlflow, api, git = (stack.enter_context(relayed(made.host.address, url)) for url in urls)
        made.environment = {**s3_server.environment, "AWS_ENDPOINT_URL": s3, "MLFLOW_TRACKING_URI": mlflow,
                            "PREFECT_API_URL": api, "FEWSTEP_ADDRESS": made.host.address}
        made.project.set({"profile": "server", "compute.on": f"pool:{POOL}", "compute.units.most": 1})
        environment = made.project.environment(**made.environment)
        for command in (["git", "remote", "add", "origin", f"{git}/project.git"],
                        ["git", "push", "-q", "origin", "main"], [sys.executable, "-c", SOONER]):
            subprocess.run(command, cwd=made.project.folder, env=environment, check=True)
        yield made


def end_all(host: netns.Host) -> None:
    for process in host.processes("python"):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def test_what_a_worker_did_that_is_cut_off_is_done_by_another_one(team, verified):
    project, said = team.project, team.folder / "said.txt"
    far = team.worker("far", team.host.hiding(team.hidden))
    run = project.start("stage", "run", "trajectories", log=said, **team.environment)
    while not list((team.folder / "cache-far").glob("work-*/work/scratch/**/*.*")):
        assert run.poll() is None and far.process.poll() is None, said.read_text()
        time.sleep(0.1)
    team.host.cut()
    near = team.worker("near", team.here)
    assert run.wait() == 0, said.read_text()
    assert "the unit is done again" in said.read_text()
    assert project.digests() == team.digests("student")
    near.end()
    far.kill()
    end_all(team.host)
    team.host.mend()
    verified("pool:NAME", "cut link", "no disk")

    project.set({"compute.nodes": 2})
    far = team.worker("far-again", team.host.hiding(team.hidden))
    run = project.start("stage", "run", "distill", log=said, **team.environment)
    while not (team.host.processes(RANKS)
               and list((project.folder / ".fewstep").rglob("round-1/checkpoints/step-*.json"))):
        assert run.poll() is None and far.process.poll() is None, said.read_text()
        time.sleep(0.05)
    team.host.cut()
    assert run.wait() == 1, said.read_text()
    told = said.read_text().replace("\n", " ")
    assert "what was started on node 2, by a worker of the pool ended as Crashed: no heartbeat" in told, told
    while team.host.processes(RANKS):   # they hear of it there, too
        time.sleep(0.5)
    near = team.worker("near-again", team.here)
    project.check("stage", "run", "distill", **team.environment)
    near.end()
    assert project.digests() == team.digests() and "student" in project.digests()
    verified("training on nodes, pool:NAME", "cut link", "no disk")
