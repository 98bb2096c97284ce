"""A training shared with a host that does not see the project's disk: inputs and checkpoints go through the store,
pairs that a round makes are made on each host, and the student is that of one process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import psutil
import pytest

from tasks.engine import graph
from tests.living import below, with_word
from tests.project import ROOT, TINY, Project

RANKS = "tasks.engine.group.ranks"


def dvc(project: Project, *words: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *words], cwd=project.folder, env=project.environment(), check=True)


def ranks(run: subprocess.Popen) -> list[psutil.Process]:
    """The processes of the training but the run's own."""
    return with_word(RANKS, below(run.pid))


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to hide a folder from a process")
def test_a_host_that_sees_no_disk_of_ours_shares_a_training_and_is_killed_in_it(
        s3_server, s3_prefix, tmp_path, verified):  # fmt: skip
    settings = {**TINY, "distill.recipe": "reflow", "distill.parts": 2, "distill.checkpoint_images": 32,
                "compute.processes": 1}
    here = Project(tmp_path / "seen" / "here", settings)
    dvc(here, "remote", "add", "-q", "-d", "store", s3_prefix)
    for stage in graph.IN_DVC:
        if stage.name == "distill":
            break
        if stage.name not in ("baselines", "classifier", "reference"):
            here.check("stage", "run", stage.name, **s3_server.environment)
    there = Project.__new__(Project)
    there.folder = tmp_path / "hidden" / "there"
    shutil.copytree(here.folder, there.folder)
    dvc(here, "remote", "remove", "-q", "store")        # or the other would take from the store what this one makes
    here.check("stage", "run", "distill")

    cache = tmp_path / "cache"
    hidden = f"mount -t tmpfs none {there.folder.parent} && cd / && exec env PYTHONPATH={ROOT} " \
             f"FEWSTEP_UNIT_CACHE={cache} {sys.executable} -m tasks.unit"
    there.set({"compute.on": "command", "compute.nodes": 2, "compute.launch": f"unshare --mount sh -c '{hidden}'"})
    said = tmp_path / "said.txt"
    run = there.start("stage", "run", "distill", log=said, **s3_server.environment)
    while not (ranks(run) and list((there.folder / ".fewstep").rglob("round-2/checkpoints/step-*.json"))):
        assert run.poll() is None, said.read_text()
        time.sleep(0.1)
    assert list(cache.glob("work-*/work/scratch/round-2/pairs")), "pairs of the second round are made there, too"
    ranks(run)[0].kill()
    assert run.wait() == 1
    assert "process 2 of 2 that share 'round-2'" in said.read_text().replace("\n", " "), said.read_text()
    there.check("stage", "run", "distill", **s3_server.environment)
    assert there.digests() == here.digests()
    assert not list(cache.glob("work-*")), "the node leaves inputs alone"
    assert len(list((cache / "inputs").iterdir())) >= 3, "inputs came by content"
    verified("training on nodes, command", "same bytes", "lost process", "no disk")
