"""Units in processes that this one starts and talks to by pipes: on this machine, or wherever a command starts them.

Each does unit after unit. `srun`, `kubectl run -i`, `docker run -i` and `ssh` carry the pipes of what they start, so a
cluster needs nothing of ours but a command.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cached_property
from typing import IO

from fewstep.util.cores import cores
from fewstep.util.errors import SettingsError
from flows.executors.engine import Hearer, Kept, Lost, heard
from flows.executors.visible_gpus import visible_gpus
from tasks.config.schema import UnitResources
from tasks.engine.group.nodes import NODE
from tasks.engine.group.ranks import how_it_ended
from tasks.engine.unit_work import UnitMessage
from tasks.storage.workspace import child_environment

UNIT = ("-m", "tasks.unit")


class Processes(Kept):
    """Processes that are started as they are needed, and kept until the run ends: here one for each GPU, without any
    one for each core."""

    far = False

    @cached_property
    def _gpus(self) -> list[str]:
        return visible_gpus()

    @property
    def width(self) -> int:
        return len(self._gpus) or cores()

    def waits_for(self) -> str:
        return "processes of this machine, which begin slowly"

    def start(self, place: int) -> UnitProcess:
        gpu = {"CUDA_VISIBLE_DEVICES": self._gpus[place]} if self._gpus else {}
        return UnitProcess([sys.executable, *UNIT], gpu)


class Launched(Processes):
    """Processes elsewhere, which `command` starts: what it starts must be `python -m tasks.unit` of this code, and it
    must carry its standard input and output.

    What such a process does not see of this disk goes through the store that hosts share.
    """

    far = True
    attempts = 3

    def __init__(self, command: Sequence[str], most: int):
        self._command, self._most = list(command), most
        super().__init__()

    @property
    def width(self) -> int:
        return self._most

    def waits_for(self) -> str:
        return f"they begin when `{shlex.join(self._command)}` has started a process"

    def start(self, place: int) -> UnitProcess:
        try:
            return UnitProcess(self._command, {NODE: str(place + 1)})
        except OSError as error:
            raise SettingsError(f"{self._command[0]}: {error.strerror}; it is to start the processes that do units",
                                hint="see compute.on and compute.launch in params.yaml") from None


def by_slurm(partition: str | None, units: UnitResources) -> Launched:
    """Processes on the nodes of a Slurm cluster, each a job of its own, of the Python of this process on a disk that
    nodes share."""
    command = ["srun", "--quiet", "--job-name=fewstep-units", "--nodes=1", "--ntasks=1", "--kill-on-bad-exit=1",
               f"--cpus-per-task={units.cpus}"]
    command += [f"--partition={partition}"] if partition else []
    command += [f"--gpus={units.gpus}"] if units.gpus else []
    return Launched([*command, sys.executable, *UNIT], min(units.most, _room_in_the_job(units)))


def _room_in_the_job(units: UnitResources) -> int:
    """How many units the Slurm job has room for that this process is in, as its steps: more would wait for ever. In no
    job each is one of its own, which waits for its turn."""
    if "SLURM_JOB_ID" not in os.environ:
        return units.most
    gives = [(int(os.environ.get("SLURM_CPUS_ON_NODE", "1")), units.cpus)]
    if units.gpus:
        gives.append((int(os.environ.get("SLURM_GPUS_ON_NODE", "0")), units.gpus))
    each = min(there // wanted for there, wanted in gives)
    if not each:
        raise SettingsError(f"a unit asks for {units.cpus} CPUs and {units.gpus or 0} GPUs, a node of Slurm job "
                            f"{os.environ['SLURM_JOB_ID']} has {gives[0][0]} and "
                            f"{os.environ.get('SLURM_GPUS_ON_NODE', 0)}", hint="change compute.units")
    return each * int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))


def by_command(launch: str, units: UnitResources) -> Launched:
    """Processes that a command of the user's starts, given as in a shell."""
    return Launched(shlex.split(launch), units.most)


class UnitProcess:
    """One `python -m tasks.unit`, started by `command` with `more` in its environment."""

    def __init__(self, command: Sequence[str], more: dict[str, str]):
        environment = child_environment(os.environ, **more)
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `end`)
        # a process group of its own: Ctrl-C in the terminal is for the run, which ends it; so does the run's death, as
        # its input ends then
        self._child = subprocess.Popen(
            command, env=environment, process_group=0, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said)  # fmt: skip

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    def do(self, work: Hearer, message: UnitMessage) -> None:
        """Have it do a unit, and take in what it tells of it. Raises Lost when it has ended before the unit."""
        with contextlib.suppress(BrokenPipeError):      # it has ended: its output has, too
            self._child.stdin.write(message.model_dump_json() + "\n")
            self._child.stdin.flush()
        for line in self._child.stdout:
            try:
                event = json.loads(line)
            except ValueError:      # what starts it may say something itself
                self._said.write(line.encode())
                continue
            if heard(work, event):
                return
        code = self._child.wait()
        self._said.seek(0)
        raise Lost(how_it_ended(code, self._said.read()))

    def end(self) -> None:
        """Ends it: here at once, elsewhere by what started it, which hears of it by its input's end too."""
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.close()
        self._child.terminate()
        try:
            self._child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()
        self._said.close()
