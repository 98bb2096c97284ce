"""Stages on a Ray node that does not see the project's disk: what it needs and makes goes through the object store."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.engine import graph
from tests.flows.executors.ray_nodes import ray_nodes
from tests.project import TINY, Project

STAGES = ("trajectories", "baselines", "distill")


def dvc(project: Project, *words: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *words], cwd=project.folder, env=project.environment(), check=True)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_units_and_a_training_of_a_node_that_sees_no_disk_of_ours_are_those_of_this_host(
        s3_server, s3_prefix, tmp_path, verified):  # fmt: skip
    here = Project(tmp_path / "seen" / "here", {**TINY, "distill.recipe": "kd", "distill.parts": 2,
                                                "compute.processes": 1})  # fmt: skip
    dvc(here, "remote", "add", "-q", "-d", "store", s3_prefix)
    before = [stage.name for stage in graph.IN_DVC if stage.name not in (*STAGES, "evaluate")]
    for stage in before:
        here.check("stage", "run", stage, **s3_server.environment)
    there = Project.__new__(Project)
    there.folder = tmp_path / "hidden" / "there"
    shutil.copytree(here.folder, there.folder)
    dvc(here, "remote", "remove", "-q", "store")        # or the other would take from the store what this one makes
    for stage in STAGES:
        here.check("stage", "run", stage)

    there.set({"compute.on": "ray", "compute.nodes": 2})
    cache = tmp_path / "cache"
    with ray_nodes({**there.environment(), **s3_server.environment, "FEWSTEP_UNIT_CACHE": str(cache)}) as nodes:
        nodes.start(0)      # the run's own host does no unit
        hide = f'mount -t tmpfs none "{there.folder.parent}" && exec "$@"'
        nodes.start(2, within=("unshare", "--mount", "sh", "-c", hide, "sh"))
        nodes.wait(2)
        for stage in STAGES:
            there.check("stage", "run", stage, **s3_server.environment, RAY_ADDRESS=nodes.address)
    assert there.digests() == here.digests()
    assert len(list((cache / "inputs").iterdir())) >= 4, "inputs came by content"
    assert not list(cache.glob("work-*")) or _only_of_killed(cache)
    verified("ray", "same bytes", "no disk")
    verified("training on nodes, ray", "same bytes", "no disk")


def _only_of_killed(cache: Path) -> bool:
    """Folders of processes that were killed with their node hold no output."""
    return all(not (folder / "output").exists() for folder in cache.glob("work-*"))
