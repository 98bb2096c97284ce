"""Units as jobs of a real Slurm cluster: the bytes of threads, a cancelled job, and none that is left. As steps of one
job: what each gets of it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from flows.executors.engine import Threads
from flows.executors.engines import Engines
from tasks.config.schema import Settings
from tests.closure import ROOT
from tests.flows.executors.slurm_node import PROGRAMS, slurm_node
from tests.flows.executors.test_unit_engines import do, work_of, world  # noqa: F401 (a fixture)
from tests.living import with_word

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.getuid() != 0 or any(shutil.which(name) is None for name in PROGRAMS),
                       reason="needs Debian's slurm-wlm and munge, and root: apt-get install slurm-wlm munge"),
]


@pytest.fixture
def cluster(monkeypatch):
    with slurm_node(Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"), "node")) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield


def jobs() -> list[str]:
    return subprocess.run(["squeue", "-h", "-o", "%i"], capture_output=True, text=True, check=True).stdout.split()


def unit_processes() -> list[psutil.Process]:
    """The processes on the node: those whose parent is Slurm's."""
    return [process for process in with_word("tasks.unit", psutil.process_iter())
            if "slurmstepd" in process.parent().name()]


def test_jobs_make_the_bytes_of_threads_and_a_cancelled_one_costs_its_unit(world, cluster, verified):  # noqa: F811
    alone = do(Threads(1), work_of(world, "trajectories", "slurm-node-threads"))
    told = world.listener.progress[:]
    with Engines(Settings(compute={"on": "slurm:units", "units": {"most": 2}})) as engines:
        work = work_of(world, "trajectories", "slurm-node")
        engine = engines.of(work)
        assert do(engine, work) == alone and 1 <= len(jobs()) <= 2
        assert sorted(world.listener.progress) == sorted(told) and not world.listener.warnings

        work = work_of(world, "trajectories", "slurm-node-cancelled")
        for process in unit_processes():
            process.suspend()       # each will be in the middle of its next unit
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(engine.run, work, work.stage.units(work.context)[0])
            for job in jobs():
                subprocess.run(["scancel", "--signal=KILL", job], check=True)
            future.result()
        assert any("the unit is done again" in text for text in world.listener.warnings)
        assert do(engine, work) == alone
    until = time.monotonic() + 60
    while jobs():
        assert time.monotonic() < until, "what the run started ends with it"
        time.sleep(0.5)
    verified("slurm", "same bytes", "lost process", "ends", "progress")


@pytest.mark.parametrize("asked", [["--gres=gpu:2", "--mem=1G"], ["--gpus=4", "--mem-per-cpu=200"],
                                   ["--gpus-per-node=2", "--mem=0"]])  # fmt: skip
@pytest.mark.parametrize("gpus", [None, 0])
def test_steps_of_a_job_run_side_by_side_and_a_training_gets_all_of_a_node(asked, gpus, tmp_path):
    with slurm_node(Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"), "nodes"), 2) as cluster:
        environment = {**os.environ, **cluster, "PYTHONPATH": str(ROOT), "UNIT_GPUS": json.dumps(gpus)}
        done = subprocess.run(["sbatch", "--wait", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=2", *asked,
                               f"--output={tmp_path}/said", "--wrap",
                               f"{sys.executable} -m tests.flows.executors.slurm_shares"], env=environment)
    said = (tmp_path / "said").read_text()
    assert done.returncode == 0, said
    each = "0" if gpus == 0 else "1"
    told = json.loads(said.splitlines()[-1])
    assert sorted(told["units"]) == [["n1", "1", each]] * 2 + [["n2", "1", each]] * 2
    assert told["training"] == [["n2", "2", "2"]]
