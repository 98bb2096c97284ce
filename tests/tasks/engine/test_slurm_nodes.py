"""A run on two nodes of a real Slurm cluster, begun by sbatch: its teacher and student are those of one process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from tests.flows.executors.slurm_node import PROGRAMS, slurm_node
from tests.infra.rendering import write
from tests.living import with_word
from tests.project import TINY, Project

pytestmark = [
    pytest.mark.slow, pytest.mark.timeout(0),
    pytest.mark.skipif(os.getuid() != 0 or any(shutil.which(name) is None for name in PROGRAMS),
                       reason="needs Debian's slurm-wlm and munge, and root: apt-get install slurm-wlm munge"),
]  # fmt: skip
SHARED = {**TINY, "distill.recipe": "kd", "teacher.parts": 2, "distill.parts": 2, "compute.processes": 1,
          "distill.checkpoint_images": 256}
STAGES = ("shard", "encode", "teacher", "trajectories", "distill")


@pytest.fixture
def cluster():
    with slurm_node(Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"), "nodes"), nodes=2) as environment:
        yield environment


def ranks() -> list[psutil.Process]:
    """The processes that other nodes started for a training."""
    return with_word("tasks.engine.group.ranks", psutil.process_iter())


def test_a_training_on_two_nodes_goes_on_after_one_is_killed_and_ends_in_the_bytes_of_one(cluster, tmp_path, verified):
    alone = Project(tmp_path / "alone", SHARED)
    for stage in STAGES:
        alone.check("stage", "run", stage)
    both = Project(tmp_path / "both", {**SHARED, "register.promote": "never"})
    (both.folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    write("slurm", both.folder, worker={"cpus": 2, "gpus": 0, "memory_gib": 2})

    def submitted() -> subprocess.Popen:
        command = ["sbatch", "--wait", "--nodes=2", "--output=said.log", "run.sbatch", "--on", "slurm:units",
                   "--set", "compute.nodes=2"]
        return subprocess.Popen(command, cwd=both.folder, env=both.environment(**cluster))

    def said() -> str:
        path = both.folder / "said.log"
        return path.read_text() if path.exists() else "nothing"

    def training() -> None:
        while not (ranks() and list((both.folder / ".fewstep").rglob("round-1/checkpoints/step-*.json"))):
            assert job.poll() is None, said()
            time.sleep(0.1)

    job = submitted()
    training()
    subprocess.run(["scancel", "--batch", "--signal=USR1", "--user=root"], env={**os.environ, **cluster},
                   check=True)      # as Slurm does before the time is up
    while ranks():
        assert job.poll() is None, said()
        time.sleep(0.1)
    training()      # the job was queued again, and goes on
    ranks()[0].kill()
    assert job.wait() != 0
    assert "process 2 of 2 that share 'round-1' of stage 'distill' was ended by SIGKILL" in said().replace("\n", " ")
    assert submitted().wait() == 0, said()
    assert {name: digest for name, digest in both.digests().items() if name in alone.digests()} == alone.digests()
    assert not ranks()
    verified("training on nodes, slurm", "same bytes", "lost process", "ends")
