"""A node of a Slurm cluster that sees nothing of the project and loses its link while it works."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import netns
from tests.faults.two_projects import TwoProjects, relayed
from tests.flows.executors.slurm_node import PROGRAMS, slurm_node
from tests.project import ROOT

pytestmark = [
    pytest.mark.faults, pytest.mark.timeout(0),
    pytest.mark.skipif(not netns.AVAILABLE, reason=netns.WHY_NOT),
    pytest.mark.skipif(any(shutil.which(name) is None for name in PROGRAMS),
                       reason="needs Debian's slurm-wlm and munge: apt-get install slurm-wlm munge"),
]  # fmt: skip
RANKS = "tasks.engine.group.ranks"


class Team(TwoProjects):
    """The same, with the host of the node n2, and the environment in which commands find the cluster."""

    host: netns.Host
    environment: dict[str, str]

    def said(self) -> str:
        path = self.folder / "said.txt"
        return path.read_text() if path.exists() else ""

    def working(self) -> bool:
        """Whether the far node has begun to work."""
        return bool(list(self.cache.glob("work-*/work/scratch/**/*.*")))


@pytest.fixture
def team(s3_server, s3_prefix, tmp_path) -> Iterator[Team]:
    made = Team(tmp_path, s3_server, s3_prefix)
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"), "nodes")
    with netns.host() as made.host, relayed(made.host.address, s3_server.url) as store, \
            slurm_node(folder, 2, made.host, made.host.hiding(made.hidden)) as cluster:  # fmt: skip
        made.environment = {**cluster, **s3_server.environment, "AWS_ENDPOINT_URL": store, "PYTHONPATH": str(ROOT),
                            "FEWSTEP_ADDRESS": made.host.address, "FEWSTEP_UNIT_CACHE": str(made.cache)}
        yield made
    folder.parent.rmdir()


def test_units_of_a_node_that_is_cut_off_are_done_on_the_other_and_a_training_is_queued_and_goes_on(team, verified):
    project = team.project
    project.set({"compute.on": "slurm:units", "compute.units.most": 2, "compute.units.cpus": 2})    # a node for each
    run = project.start("stage", "run", "trajectories", log=team.folder / "said.txt", **team.environment)
    while not team.working():
        assert run.poll() is None, team.said()
        time.sleep(0.05)
    team.host.cut()
    assert run.wait() == 0, team.said()
    assert "the unit is done again" in team.said()
    assert project.digests() == team.digests("student")
    team.host.mend()
    verified("slurm", "cut link", "no disk")

    project.set({"compute.nodes": 2})
    step = shlex.join([sys.executable, "-m", "flows.cli", "stage", "run", "distill"])
    subprocess.run(["sbatch", "--nodes=2", "--requeue", "--open-mode=append", f"--output={team.folder}/said.txt",
                    "--wrap", step], cwd=project.folder, env=project.environment(**team.environment), check=True)

    def jobs() -> str:
        asked = ["squeue", "-h", "-o", "%T"]
        return subprocess.run(asked, env={**os.environ, **team.environment}, capture_output=True, text=True).stdout

    while not (team.host.processes(RANKS)
               and list((project.folder / ".fewstep").rglob("round-1/checkpoints/step-*.json"))):
        assert jobs(), team.said()
        time.sleep(0.05)
    team.host.cut()
    while "PENDING" not in jobs():      # Slurm ends the job, and queues it again for when it has two nodes
        assert jobs(), team.said()
        time.sleep(0.5)
    team.host.mend()
    while jobs():
        time.sleep(0.5)
    assert project.digests() == team.digests() and "student" in project.digests(), team.said()
    assert "distill: 768 of 768 images" in team.said()
    while team.host.processes(RANKS):
        time.sleep(0.5)
    verified("training on nodes, slurm", "cut link", "progress", "no disk")
