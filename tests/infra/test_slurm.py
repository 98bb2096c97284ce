"""The batch script of Slurm: run by bash with a script in place of `scontrol`, and by a real Slurm of one node."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.flows.executors.slurm_node import PROGRAMS, slurm_node
from tests.infra.rendering import write

FEWSTEP = """#!/bin/bash
echo "fewstep $* key=$AWS_ACCESS_KEY_ID" >> {folder}/calls
trap 'sleep 1; echo stopped >> {folder}/calls; exit ${{CODE:-130}}' TERM
[ -n "${{SLURM_RESTART_COUNT:-}}" ] && exit 0
touch {folder}/begun
[ -e {folder}/quick ] && exit ${{CODE:-0}}
while :; do sleep 0.1; done
"""
WITHOUT = pytest.mark.skipif(os.getuid() != 0 or any(shutil.which(name) is None for name in PROGRAMS),
                             reason="needs Debian's slurm-wlm and munge, and root: apt-get install slurm-wlm munge")


def clone(folder: Path, **stack) -> Path:
    """The rendered script, and a clone with a `fewstep` that says how it was called and what it was told."""
    write("slurm", folder, **stack)
    command = folder / "clone/.venv/bin/fewstep"
    command.parent.mkdir(parents=True)
    command.write_text(FEWSTEP.format(folder=folder))
    command.chmod(0o755)
    (folder / "secrets").write_text("AWS_ACCESS_KEY_ID=canary\n")
    return folder


@pytest.fixture
def node(tmp_path):
    """Such a clone, and a `scontrol` that notes how it was called before all others."""
    clone(tmp_path, grace_seconds=600, worker={"gpus": 2, "cpus": 8, "memory_gib": 64})
    tool = tmp_path / "tools/scontrol"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/bash\necho "scontrol $*" >> {tmp_path}/calls\n')
    tool.chmod(0o755)
    return tmp_path


def start(node, *arguments: str, **more: str) -> subprocess.Popen:
    environment = {**os.environ, "PATH": f"{node}/tools:{os.environ['PATH']}", "SLURM_JOB_ID": "7",
                   "SLURM_SUBMIT_DIR": str(node / "clone"), "FEWSTEP_SECRETS": str(node / "secrets"),
                   **more}  # fmt: skip
    return subprocess.Popen(["bash", node / "run.sbatch", *arguments], env=environment, start_new_session=True)


def calls(node) -> list[str]:
    return (node / "calls").read_text().splitlines()


def begun(node, alive=lambda: True) -> None:
    while not (node / "begun").exists():
        assert alive()
        time.sleep(0.05)


def test_resources_and_times_are_asked_for(node):
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", (node / "run.sbatch").read_text(), re.MULTILINE))
    assert asked["gres"] == "gpu:2" and asked["cpus-per-task"] == "8" and asked["mem"] == "64G"
    assert asked["signal"] == "B:USR1@600" and asked["requeue"] == ""


def test_a_run_gets_its_arguments_and_secrets_and_its_code_is_the_jobs(node):
    (node / "quick").touch()
    assert start(node, "--set", "seed=3").wait() == 0
    assert calls(node) == ["fewstep run --set seed=3 key=canary"]
    assert start(node, CODE="4").wait() == 4


@pytest.mark.parametrize(("number", "code", "ends", "then"), [
    (signal.SIGUSR1, 130, 0, ["scontrol requeue 7"]), (signal.SIGUSR1, 143, 0, ["scontrol requeue 7"]),
    (signal.SIGUSR1, 0, 0, []), (signal.SIGUSR1, 4, 4, []), (signal.SIGINT, 130, 130, []),
])  # fmt: skip
def test_the_run_is_told_to_stop_once_and_goes_on_later_where_it_was_stopped(node, number, code, ends, then):
    job = start(node, CODE=str(code))
    begun(node)
    job.send_signal(number)
    assert job.wait() == ends
    assert calls(node) == ["fewstep run key=canary", "stopped", *then]


def test_a_job_that_ends_waits_for_its_run_that_was_told_to_stop_by_slurm(node):
    job = start(node)
    begun(node)
    os.killpg(job.pid, signal.SIGTERM)
    assert job.wait() == 130
    assert calls(node) == ["fewstep run key=canary", "stopped"]


@pytest.fixture
def cluster(tmp_path):
    """Runs a command of Slurm where a clone is that asks for what the node has; the job may last three minutes."""
    clone(tmp_path, grace_seconds=120, worker={"gpus": 2, "cpus": 2, "memory_gib": 2})
    with slurm_node(Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"), "node")) as found:
        environment = {**os.environ, **found, "FEWSTEP_SECRETS": str(tmp_path / "secrets")}

        def run(*command: str) -> str:
            return subprocess.run(command, cwd=tmp_path / "clone", env=environment, capture_output=True, text=True,
                                  check=True).stdout  # fmt: skip

        run("sbatch", "--time=3", "../run.sbatch", "--set", "seed=3")
        begun(tmp_path)
        yield run


def ended(run) -> None:
    while run("squeue", "-h"):
        time.sleep(0.5)


@WITHOUT
@pytest.mark.slow
def test_before_the_time_is_up_slurm_has_the_run_stop_and_the_job_goes_on(cluster, tmp_path):
    ended(cluster)
    assert calls(tmp_path) == ["fewstep run --set seed=3 key=canary", "stopped", "fewstep run --set seed=3 key=canary"]
    assert "JobState=COMPLETED" in cluster("scontrol", "show", "job", "1")


@WITHOUT
@pytest.mark.slow
@pytest.mark.parametrize(("command", "state"), [(["scancel", "1"], "CANCELLED"),
                                                (["scancel", "--batch", "--signal=INT", "1"], "FAILED")])
def test_a_job_that_is_cancelled_ends_on_a_checkpoint_too(cluster, tmp_path, command, state):
    cluster(*command)
    ended(cluster)
    assert calls(tmp_path) == ["fewstep run --set seed=3 key=canary", "stopped"]
    assert f"JobState={state}" in cluster("scontrol", "show", "job", "1")
