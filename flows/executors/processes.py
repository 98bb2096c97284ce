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
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import IO

from fewstep.util.cores import cores
from fewstep.util.errors import SettingsError
from flows.executors.engine import Hearer, Kept, Lost, heard
from flows.executors.visible_gpus import visible_gpus
from tasks.config.schema import UnitResources
from tasks.engine.group import slurm
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
        return UnitProcess([sys.executable, *UNIT], os.environ | gpu)


class Launched(Processes):
    """Processes elsewhere, which `command` starts: what it starts must be `python -m tasks.unit` of this code, and it
    must carry its standard input and output.

    What such a process does not see of this disk goes through the store that hosts share.
    """

    far = True
    attempts = 3

    def __init__(self, command: Sequence[str], most: int, environment: Mapping[str, str]):
        self._command, self._most, self._environment = list(command), most, dict(environment)
        super().__init__()

    @property
    def width(self) -> int:
        return self._most

    def waits_for(self) -> str:
        return f"they begin when `{shlex.join(self._command)}` has started a process"

    def start(self, place: int) -> UnitProcess:
        try:
            return UnitProcess(self._command, self._environment | {NODE: str(place + 1)})
        except OSError as error:
            raise SettingsError(f"{self._command[0]}: {error.strerror}; it is to start the processes that do units",
                                hint="see compute.on and compute.launch in params.yaml") from None


def by_slurm(partition: str | None, units: UnitResources) -> Launched:
    """Processes on the nodes of a Slurm cluster, of the Python of this process on a disk that nodes share: steps of the
    job that this process is in, else each a job of its own."""
    gpus, most = units.gpus, units.most
    if slurm.in_job():
        gpus = min(1, slurm.gpus_here()) if gpus is None else gpus
        most = min(most, _room_in_the_job(units.cpus, gpus))
    options = [f"--partition={partition}"] if partition else []
    command = [*slurm.srun("fewstep-units", units.cpus, gpus, *options), sys.executable, *UNIT]
    return Launched(command, most, slurm.environment())


def _room_in_the_job(cpus: int, gpus: int) -> int:
    """How many units the Slurm job has room for that this process is in, as its steps: more would wait for ever."""
    each = slurm.cpus_here() // cpus
    each = min(each, slurm.gpus_here() // gpus) if gpus else each
    if not each:
        raise SettingsError(f"a unit asks for {cpus} CPUs and {gpus} GPUs, a node of Slurm job "
                            f"{os.environ['SLURM_JOB_ID']} has {slurm.cpus_here()} and {slurm.gpus_here()}",
                            hint="change compute.units")
    return each * int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))


def by_command(launch: str, units: UnitResources) -> Launched:
    """Processes that a command of the user's starts, given as in a shell."""
    return Launched(shlex.split(launch), units.most, os.environ)


class UnitProcess:
    """One `python -m tasks.unit`, started by `command` with this environment."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]):
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `end`)
        # a process group of its own: Ctrl-C in the terminal is for the run, which ends it; so does the run's death, as
        # its input ends then
        self._child = subprocess.Popen(
            command, env=child_environment(environment), process_group=0, text=True,
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
