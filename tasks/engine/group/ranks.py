"""The processes of one machine that take part in a shared unit: `python -m tasks.engine.group.ranks RANK` is one.

They compute their parts of every batch and end with the unit, whatever ends it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from fewstep.util.errors import FewstepError, SettingsError, StageFailed, to_json
from fewstep.util.errors import from_json as error_from_json
from fewstep.util.files import write_atomically
from fewstep.util.plain_data import from_json
from tasks.config.schema import Parallel
from tasks.engine import graph
from tasks.engine.context_message import WorkMessage
from tasks.engine.group.meeting import join
from tasks.storage.locks import die_with_parent
from tasks.storage.workspace import child_environment


class Message(WorkMessage):
    """What a further process is told.

    Attributes:
        unit: that is shared. size: by so many processes.
        address: where they meet: `file:///PATH`, or `tcp://HOST:PORT` of the first one.
        gpus: whether they compute on GPUs.
    """

    key: str
    unit: str
    size: int
    address: str
    gpus: bool
    gradient_checkpointing: bool = False
    ema_device: Literal["cpu"] | None = None
    parallel: Parallel = "replicate"
    reshard: bool = False

    def named(self, rank: int) -> str:
        """A process in words."""
        return f"process {rank + 1} of {self.size} that share '{self.unit}' of stage '{self.stage}'"


class Ranks:
    """Processes of this machine, as part of a group.

    Args:
        message: what they are told.
        ranks: their numbers in the group.
        meeting: a folder of this machine for what they say.
        first: number of the group's first process on this machine.
    """

    def __init__(self, message: Message, ranks: Iterable[int], meeting: Path, first: int = 0):
        self.message, self.meeting, self._first = message, meeting, first
        self._files, self._logged = contextlib.ExitStack(), set[int]()
        text = message.model_dump_json().encode()
        self.running = {rank: self._start(rank, text) for rank in ranks}

    def _start(self, rank: int, text: bytes) -> subprocess.Popen:
        environment = child_environment(os.environ, FEWSTEP_PARENT=str(os.getpid()), LOCAL_RANK=str(rank - self._first))
        said = self._files.enter_context(self._said(rank).open("wb"))
        command = [sys.executable, "-m", "tasks.engine.group.ranks", str(rank), str(self.meeting)]
        # a process group of its own: Ctrl-C in the terminal is for the first process, which ends the others
        child = subprocess.Popen(command, cwd=self.message.root, env=environment, process_group=0,
                                 stdin=subprocess.PIPE, stdout=said, stderr=said)
        with contextlib.suppress(BrokenPipeError):      # it has ended, which is seen below
            child.stdin.write(text)
            child.stdin.close()
        return child

    @property
    def ready(self) -> bool:
        """Whether each of them is about to join. Raises the error of one that has failed."""
        self.require_alive()
        return all(self._ready(rank).exists() for rank in self.running)

    @property
    def fingerprint(self) -> dict:
        """What bits depend on where they run; they are ready."""
        return from_json(self._ready(min(self.running)).read_text(encoding="utf-8"))

    @property
    def done(self) -> bool:
        """Whether each of them has ended. Raises the error of one that has failed."""
        self.require_alive()
        return all(child.poll() is not None for child in self.running.values())

    def require_alive(self) -> None:
        """Raises the error of a process that has failed."""
        error = self.error()
        if error is not None:
            raise error

    def error(self) -> Exception | None:
        """That of a process that has failed."""
        return next(iter(self.errors().values()), None)

    def errors(self) -> dict[int, Exception]:
        """Those of the processes that have failed, by their numbers."""
        return {rank: self._error_of(rank) for rank, child in self.running.items() if child.poll()}

    def _error_of(self, rank: int) -> Exception:
        if rank not in self._logged:    # where it failed is said nowhere else
            self._logged.add(rank)
            said = self._said(rank).read_text(encoding="utf-8", errors="replace").strip()
            logging.getLogger(__name__).error("%s said:\n%s", self.message.named(rank), said or "nothing")
        told = self.meeting / f"error-{rank}"
        if told.exists():
            return error_from_json(told.read_text(encoding="utf-8"))
        how = how_it_ended(self.running[rank].returncode, self._said(rank).read_bytes())
        return StageFailed(f"{self.message.named(rank)} {how}",
                           hint=None if self.message.parallel == "shard" else
                           "compute.processes: 1 does without the others, and makes the same bits")  # fmt: skip

    def _said(self, rank: int) -> Path:
        return self.meeting / f"said-{rank}.log"

    def _ready(self, rank: int) -> Path:
        return self.meeting / f"ready-{rank}"

    def end(self) -> None:
        """End whatever still runs; nothing is lost, as the first process of the group alone writes."""
        for child in self.running.values():
            child.kill()
            child.wait()
        self._files.close()


def how_it_ended(code: int, said: bytes) -> str:
    """In words, how a process ended that had this exit code and printed this: `was ended by SIGKILL: last line`."""
    words = said.decode(errors="replace").strip().splitlines()
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return how + (f": {words[-1]}" if words else "")


def main() -> None:
    """A further process: takes part in the unit until it is done."""
    die_with_parent(int(os.environ.pop("FEWSTEP_PARENT")))
    rank, meeting = int(sys.argv[1]), Path(sys.argv[2])
    message = Message.model_validate_json(sys.stdin.buffer.read())
    try:
        stage = graph.stage(message.stage)
        context = message.context(stage, message.key, "shared unit", ema_device=message.ema_device,
                                  parallel=message.parallel, reshard=message.reshard,
                                  gradient_checkpointing=message.gradient_checkpointing)
        from torch import cuda, distributed

        from fewstep.util import fingerprint
        from fewstep.util.device import default_device

        if cuda.is_available() != message.gpus:
            raise SettingsError(f"{message.named(rank)} has {'a GPU' if cuda.is_available() else 'no GPU'}, the first "
                                f"one has {'one' if message.gpus else 'none'}",
                                hint="start the run on a node like the others")
        write_atomically(meeting / f"ready-{rank}", json.dumps(fingerprint.fingerprint(default_device())))
        join(message.address, rank, message.size, int(os.environ["LOCAL_RANK"]))
        stage.join(context, message.unit)
        distributed.barrier()
    except Exception as error:
        traceback.print_exc()
        if not isinstance(error, FewstepError):
            error = StageFailed(f"{message.named(rank)}: {type(error).__name__}: {error}")
        write_atomically(meeting / f"error-{rank}", to_json(error))
        sys.exit(1)
    os._exit(0)     # nothing is left to do, and taking torch apart takes seconds


if __name__ == "__main__":
    main()
