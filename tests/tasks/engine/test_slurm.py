"""What srun is told: shares of the job that this process is in, or nothing of one."""

import os

import pytest

from tasks.engine.group import slurm


@pytest.fixture
def job(monkeypatch, tmp_path):
    """Sets variables as a job has them, and has `scontrol` tell names of nodes."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    script = tmp_path / "scontrol"
    script.write_text("#!/bin/sh\nprintf 'n1\\nn2\\nn9\\n'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def given(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(f"SLURM_{name}", value)

    return given


def test_a_job_of_its_own_gets_what_the_cluster_gives(job):
    job(GPUS="4")       # what a person asks for, for each job
    command = slurm.srun("units", 2, None, "--partition=gpu")
    assert command[0] == "srun" and {"--cpus-per-task=2", "--partition=gpu", "--nodes=1", "--ntasks=1"} < set(command)
    assert not [word for word in command if word.startswith(("--gpus", "--gres", "--mem"))]
    assert "--gpus=3" in slurm.srun("units", 2, 3) and slurm.environment()["SLURM_GPUS"] == "4"
    assert slurm.nodes() == {}


def test_a_step_names_its_share_and_inherits_no_wish_of_the_whole_job(job):
    job(JOB_ID="7", CPUS_ON_NODE="8", GPUS_ON_NODE="4", GPUS="8", GPUS_PER_NODE="4", CPUS_PER_GPU="2", MEM_PER_NODE="9")
    assert {"--gpus=1", "--mem=0", "--cpus-per-task=2"} < set(slurm.srun("units", 2, 1))
    assert {"--gres=none", "--mem=0"} < set(slurm.srun("units", 2, 0))
    seen = slurm.environment()
    assert not {"SLURM_GPUS", "SLURM_GPUS_PER_NODE", "SLURM_CPUS_PER_GPU"} & set(seen) and seen["SLURM_JOB_ID"] == "7"
    assert seen["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize(("told", "cpus"), [("8(x3)", [8, 8, 8]), ("72(x2),36", [72, 72, 36]), ("1,2,3", [1, 2, 3])])
def test_each_node_has_cpus_of_its_own(job, told, cpus):
    job(JOB_NODELIST="n[1-2,9]", JOB_CPUS_PER_NODE=told)
    assert slurm.nodes() == dict(zip(("n1", "n2", "n9"), cpus, strict=True))
