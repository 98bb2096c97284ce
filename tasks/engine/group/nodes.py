"""The other nodes of a training: what is said with each, and what starts a process there that hears and says it through
its pipes."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shlex
import subprocess
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import IO, Any, Protocol

from fewstep.util.errors import SettingsError, StageFailed
from fewstep.util.errors import from_json as error_from_json
from tasks.config.schema import Compute
from tasks.engine.group import slurm
from tasks.engine.group.ranks import how_it_ended
from tasks.storage.workspace import child_environment

NODE = "FEWSTEP_NODE"
"""Environment variable of `compute.launch`, from 1: number of the node that it is to start a process on, or of the
process where units are to be done."""
LONG_WAIT = 60.0
"""Seconds after which it is said what is waited for: longer than a process takes to begin."""
_UNIT = (sys.executable, "-m", "tasks.unit")
_LAST_WORDS = 10.0  # seconds that what started a process gets to end after it


class Nodes(Protocol):
    """As many nodes as train together, this one among them."""

    @property
    def count(self) -> int: ...

    def start(self, count: int) -> list[Link]:
        """What takes part on each of `count` nodes but this one. Raises SettingsError where there are not so many."""


@dataclass(frozen=True)
class LaunchedNodes:
    """Those of the Slurm job that this run is in, or those where `compute.launch` starts a process."""

    compute: Compute

    @property
    def count(self) -> int:
        return self.compute.nodes

    def start(self, count: int) -> list[Link]:
        """See Nodes."""
        if self.compute.on == "command":
            commands = [(f"node {k + 1}", shlex.split(self.compute.launch)) for k in range(1, count)]
            environment = dict(os.environ)
        else:
            commands = [(name, _by_slurm(name, cpus)) for name, cpus in _others_of_the_allocation(count)]
            environment = slurm.environment()
        links = []
        try:
            for number, (name, command) in enumerate(commands, 1):
                links.append(Process(name, command, environment | {NODE: str(number)}))
        except BaseException:
            for link in links:
                link.end()
            raise
        return links


def _by_slurm(node: str, cpus: int) -> list[str]:
    """A step of this job on the node, of as many GPUs as there are here. It may use what steps that do units there
    still hold."""
    return [*slurm.srun("fewstep-ranks", cpus, slurm.gpus_here(), f"--nodelist={node}", "--overlap"), *_UNIT]


def _others_of_the_allocation(count: int) -> list[tuple[str, int]]:
    """As many nodes of this Slurm job as make `count` with this one, and the job's CPUs on each."""
    nodes, own = slurm.nodes(), os.environ.get("SLURMD_NODENAME")
    how = f"sbatch --nodes={count} run.sbatch --on slurm --set compute.nodes={count} (fewstep stack render slurm)"
    if not nodes or own is None:
        raise SettingsError(f"compute.nodes is {count}, and this run is on no node of a Slurm job", hint=how)
    if len(nodes) < count:
        raise SettingsError(f"compute.nodes is {count}, and this Slurm job has {len(nodes)}: "
                            f"{os.environ['SLURM_JOB_NODELIST']}", hint=how)
    return [(name, cpus) for name, cpus in nodes.items() if name != own][: count - 1]


class Link(ABC):
    """What takes part in a unit on the node `name`, as `python -m tasks.unit` does: it is told of its share, and tells
    events.

    Attributes:
        done: whether it has ended in good order.
        error: that it told of, or that it has ended with; None while there is none.
    """

    def __init__(self, name: str):
        self.name, self.done = name, False
        self.error: Exception | None = None

    @property
    def awaited(self) -> str:
        """What is waited for until it begins, in words."""
        return self.name

    @abstractmethod
    def say(self, what: dict[str, Any]) -> None:
        """Tell it. That it has ended is seen by what it says."""

    @abstractmethod
    def _next(self) -> dict[str, Any]:
        """The event that it has told next; {} for nothing. Raises StageFailed when it has ended before it was done."""

    @abstractmethod
    def end(self) -> None:
        """End it."""

    def heard(self) -> dict[str, Any]:
        """What it has said next; {} for nothing. Raises the error that it tells of, and StageFailed when it has ended
        before it was done."""
        if self.error is not None:
            raise self.error
        try:
            event = {} if self.done else self._next()
            if "error" in event:
                raise error_from_json(event["error"])
        except Exception as error:
            self.error = error
            raise
        self.done = self.done or event.get("done", False)
        return event

    def _lost(self, how: str) -> StageFailed:
        """The error of one that has ended before it was done; `how`: in words."""
        return StageFailed(f"what was started on {self.name} {how}",
                           hint="finished work is kept; the same command goes on from the last checkpoint")


class Process(Link):
    """A `python -m tasks.unit` that `command`, with this environment, started on the node `name`."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str]):
        super().__init__(name)
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `end`)
        try:
            self._child = subprocess.Popen(
                command, env=child_environment(environment), process_group=0, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said)  # fmt: skip
        except OSError as error:
            self._said.close()
            raise SettingsError(f"{command[0]}: {error.strerror}; it is to start processes on {name}",
                                hint="see compute.on and compute.launch in params.yaml") from None
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._ear = threading.Thread(target=self._listen, daemon=True)
        self._ear.start()

    def _listen(self) -> None:
        for line in self._child.stdout:
            try:
                self._events.put(json.loads(line))
            except ValueError:      # what starts it may say something itself
                with contextlib.suppress(ValueError):   # closed: nobody asks any more
                    self._said.write(line.encode())
        self._events.put(None)

    def say(self, what: dict[str, Any]) -> None:
        """See Link."""
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.write(json.dumps(what) + "\n")
            self._child.stdin.flush()

    def _next(self) -> dict[str, Any]:
        try:
            event = self._events.get_nowait()
        except queue.Empty:
            return {}
        if event is None:
            raise self._ended()
        return event

    def _ended(self) -> StageFailed:
        try:
            code = self._child.wait(timeout=_LAST_WORDS)
        except subprocess.TimeoutExpired:
            return self._lost("said no more")
        self._said.seek(0)
        return self._lost(how_it_ended(code, self._said.read()))

    def end(self) -> None:
        """Ends it: by its input's end, which it hears, and by the end of what started it."""
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.close()
        self._child.terminate()
        try:
            self._child.wait(timeout=_LAST_WORDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._ear.join(timeout=_LAST_WORDS)     # it may go on where something else holds the pipe
        self._said.close()
