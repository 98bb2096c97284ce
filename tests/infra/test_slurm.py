"""The batch script of Slurm, run by bash with Slurm's commands as scripts that note how they were called."""

import os
import re
import signal
import subprocess
import time

import pytest

from tests.infra.rendering import write


@pytest.fixture
def node(tmp_path):
    """A clone with a `fewstep` that says how it was called, and fakes of srun and scontrol before all others."""
    write("slurm", tmp_path, grace_seconds=600, worker={"gpus": 2, "cpus": 8, "memory_gib": 64})
    tools, clone = tmp_path / "tools", tmp_path / "clone"
    for path, text in {
        tools / "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
        tools / "scontrol": f'echo "scontrol $*" >> {tmp_path}/calls',
        clone / ".venv/bin/fewstep": f'echo "fewstep $* key=$AWS_ACCESS_KEY_ID" >> {tmp_path}/calls\n'
                                     f'trap "echo stopped >> {tmp_path}/calls; exit 130" TERM\n'
                                     f'touch {tmp_path}/begun; [ -e {tmp_path}/quick ] && exit ${{CODE:-0}}\n'
                                     'while :; do sleep 0.1; done',
    }.items():  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    (tmp_path / "secrets").write_text("AWS_ACCESS_KEY_ID=canary\n")
    return tmp_path


def start(node, *arguments: str, **more: str) -> subprocess.Popen:
    environment = {**os.environ, "PATH": f"{node}/tools:{os.environ['PATH']}", "SLURM_JOB_ID": "7",
                   "SLURM_SUBMIT_DIR": str(node / "clone"), "FEWSTEP_SECRETS": str(node / "secrets"),
                   **more}  # fmt: skip
    return subprocess.Popen(["bash", node / "run.sbatch", *arguments], env=environment)


def calls(node) -> list[str]:
    return (node / "calls").read_text().splitlines()


def test_resources_and_times_are_asked_for(node):
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", (node / "run.sbatch").read_text(), re.MULTILINE))
    assert asked["gres"] == "gpu:2" and asked["cpus-per-task"] == "8" and asked["mem"] == "64G"
    assert asked["signal"] == "B:TERM@600" and asked["requeue"] == ""


def test_a_run_gets_its_arguments_and_secrets_and_its_code_is_the_jobs(node):
    (node / "quick").touch()
    assert start(node, "--set", "seed=3").wait() == 0
    assert calls(node) == ["fewstep run --set seed=3 key=canary"]
    assert start(node, CODE="4").wait() == 4


def test_before_the_time_is_up_the_run_stops_and_the_job_is_queued_again(node):
    job = start(node)
    while not (node / "begun").exists():
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert job.wait() == 0
    assert calls(node) == ["fewstep run key=canary", "stopped", "scontrol requeue 7"]
