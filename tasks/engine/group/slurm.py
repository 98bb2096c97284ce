"""Processes that Slurm's `srun` starts: steps of the job that this process is in, or each a job of its own."""

from __future__ import annotations

import os
import re
import subprocess

from fewstep.util.errors import NotAvailable

_WISHES = ("SLURM_CPUS_PER_GPU", "SLURM_GPUS", "SLURM_GPUS_PER_NODE", "SLURM_GPUS_PER_TASK", "SLURM_GRES",
           "SLURM_MEM_PER_GPU", "SLURM_NTASKS_PER_GPU", "SLURM_STEP_GRES")  # fmt: skip
"""Environment variables by which a job tells what it asked for as a whole; srun takes them for what a step asks."""


def srun(name: str, cpus: int, gpus: int | None, *options: str) -> list[str]:
    """The beginning of a command: one process with so many CPUs and GPUs; None: as many as Slurm gives by itself.

    A step of this job names its CPUs and GPUs, as it gets one CPU and all GPUs otherwise; memory it shares with the
    other steps, as one that asks for none would have all of it to itself.
    """
    command = ["srun", "--quiet", f"--job-name={name}", "--nodes=1", "--ntasks=1", "--kill-on-bad-exit=1",
               f"--cpus-per-task={cpus}"]
    command += [f"--gpus={gpus}"] if gpus else ["--gres=none"] if gpus == 0 and gpus_here() else []
    return [*command, *(["--mem=0"] if in_job() else []), *options]


def environment() -> dict[str, str]:
    """This process's, as `srun` is to see it."""
    return {name: value for name, value in os.environ.items() if not (in_job() and name in _WISHES)}


def in_job() -> bool:
    return "SLURM_JOB_ID" in os.environ


def cpus_here() -> int:
    """CPUs that the job has on this node."""
    return int(os.environ.get("SLURM_CPUS_ON_NODE", "1"))


def gpus_here() -> int:
    """GPUs that the job has on this node."""
    return int(os.environ.get("SLURM_GPUS_ON_NODE", "0"))


def nodes() -> dict[str, int]:
    """The nodes of the job, and how many CPUs it has on each; nothing outside a job.

    Raises NotAvailable where Slurm does not tell.
    """
    listed = os.environ.get("SLURM_JOB_NODELIST")
    if listed is None:
        return {}
    try:
        said = subprocess.run(["scontrol", "show", "hostnames", listed], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotAvailable(f"scontrol did not tell the nodes of this Slurm job: {error}") from error
    return dict(zip(said.stdout.split(), _cpus(os.environ["SLURM_JOB_CPUS_PER_NODE"]), strict=True))


def _cpus(told: str) -> list[int]:
    """Those of each node, where `2(x2),8` stands for 2, 2 and 8."""
    return [int(cpus) for cpus, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", told) for _ in range(int(times or 1))]
