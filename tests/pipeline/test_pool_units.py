"""Stages by flow runs of a Prefect work pool, whose workers see nothing of the project: they clone its commit, and what
they need and make goes through the object store."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows.executors.pool_worker import PAUSE
from tasks.engine import graph
from tests.flows.scheduling.pool_team import POOL, Worker
from tests.git_daemon import git_daemon
from tests.living import below, with_word
from tests.mlflow_server import mlflow_server
from tests.prefect_server import prefect_server
from tests.project import TINY, Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]
STAGE, RANKS = "trajectories", "tasks.engine.group.ranks"
FLOW_RUN = "engine"    # in the command line of the process that does a flow run


def command(project: Project, *words: str) -> None:
    subprocess.run(words, cwd=project.folder, env=project.environment(), check=True, capture_output=True)


def dvc(project: Project, *words: str) -> None:
    command(project, sys.executable, "-m", "dvc", *words)


def doers(worker: Worker, word: str = FLOW_RUN) -> list[psutil.Process]:
    """The processes of the worker that do flow runs."""
    return with_word(word, below(worker.process.pid))


@pytest.fixture
def servers(tmp_path, s3_server):
    """Environment of a project, and Prefect's server, with a pool and a git server that has nothing yet."""
    (tmp_path / "mlflow").mkdir()
    served = tmp_path / "served"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(served / "project.git")], check=True)
    with mlflow_server(tmp_path / "mlflow", f"sqlite:///{tmp_path}/mlflow/server.db") as mlflow, \
            git_daemon(served) as git, prefect_server(tmp_path / "prefect") as prefect:  # fmt: skip
        prefect.ask("work_pools/", {"name": POOL, "type": "process"})
        yield {**s3_server.environment, "MLFLOW_TRACKING_URI": mlflow, "PREFECT_API_URL": prefect.api}, prefect, git


def test_what_a_pools_workers_do_is_that_of_this_host_and_what_a_lost_one_did_is_done_again(
        servers, s3_prefix, tmp_path, verified):  # fmt: skip
    shared, prefect, git = servers
    here = Project(tmp_path / "seen" / "here", {**TINY, "distill.recipe": "kd", "trajectories.record_size": 4,
                                                "distill.parts": 2, "distill.checkpoint_images": 32,
                                                "compute.processes": 1})  # fmt: skip
    dvc(here, "remote", "add", "-q", "-d", "store", s3_prefix)
    for stage in graph.IN_DVC:
        if stage.name == STAGE:
            break
        here.check("stage", "run", stage.name, **shared)
    there = Project.__new__(Project)
    there.folder = tmp_path / "hidden" / "there"
    shutil.copytree(here.folder, there.folder)
    dvc(here, "remote", "remove", "-q", "store")        # or the other would take from the store what this one makes
    here.check("stage", "run", STAGE)
    here.check("stage", "run", "distill")

    there.set({"profile": "server", "compute.on": f"pool:{POOL}", "compute.units.most": 1})
    refused = there.run("stage", "run", STAGE, **shared)
    assert refused.returncode == 2 and "is on no remote" in refused.stderr, refused.stderr
    command(there, "git", "remote", "add", "origin", f"{git}/project.git")
    command(there, "git", "push", "-q", "origin", "main")   # the commit; settings are not in it, and need not be

    hide = f'mount -t tmpfs none "{there.folder.parent}" && exec "$@"'
    elsewhere = {**there.environment(), **shared, "FEWSTEP_UNIT_CACHE": str(tmp_path / "cache")}
    worker = Worker(tmp_path / "worker", elsewhere, ("unshare", "--mount", "sh", "-c", hide, "sh"))
    try:
        said = tmp_path / "said.txt"
        run = there.start("stage", "run", STAGE, log=said, **shared)
        while not doers(worker) or not list((tmp_path / "cache").glob("work-*/work/scratch/**/*.*")):
            assert run.poll() is None and worker.process.poll() is None, said.read_text()
            time.sleep(0.2)
        lost = doers(worker)
        for process in lost:    # held first: between two units it has the next one by then, and loses that
            process.suspend()
        time.sleep(20 * PAUSE)
        for process in lost:
            process.kill()
        assert run.wait() == 0, said.read_text()
        assert "the unit is done again" in said.read_text() and f"{STAGE}: 96 of 96 images" in said.read_text()
        states = [found["state"]["name"] for found in prefect.flow_runs()]
        assert states[0] == "Crashed" and len(states) == 2, states
        while doers(worker):    # it ends by itself once the run has ended
            time.sleep(0.2)
        assert there.digests()[STAGE] == here.digests()[STAGE]

        there.set({"compute.nodes": 2})
        run = there.start("stage", "run", "distill", log=said, **shared)
        while not (doers(worker, RANKS) and list((there.folder / ".fewstep").rglob("round-1/checkpoints/step-*.json"))):
            assert run.poll() is None and worker.process.poll() is None, said.read_text()
            time.sleep(0.1)
        for process in doers(worker):
            process.kill()
        assert run.wait() == 1, said.read_text()
        told = said.read_text().replace("\n", " ")
        assert "what was started on node 2, by a worker of the pool ended as Crashed" in told, told
        run = there.start("stage", "run", "distill", log=said, **shared)
        assert run.wait() == 0 and "distill: 768 of 768 images" in said.read_text(), said.read_text()
        while doers(worker):
            time.sleep(0.2)
    finally:
        worker.end()
    assert there.digests() == here.digests()
    assert prefect.flow_runs()[-1]["state"]["name"] == "Completed"
    assert not _holds_path(prefect, there.folder), "no deployment names a path of this host"
    verified("pool:NAME", "same bytes", "lost process", "ends", "progress", "no disk")
    verified("training on nodes, pool:NAME", "same bytes", "lost process", "ends", "progress", "no disk")


def _holds_path(prefect, folder: Path) -> bool:
    return any(str(folder) in str(deployment) for deployment in prefect.deployments().values())
