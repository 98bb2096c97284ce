"""A unit of work that processes of this machine share: `python -m tasks.engine.shared_unit RANK` is a further one.

The process that runs the stage is the first and the only one that writes, but for what others alone hold of a
checkpoint (compute.parallel: shard). The others compute their parts of every batch
and end with it, whatever ends it; when one of them fails, so does the unit, with that one's error, and its checkpoints
stand. How many there are changes no bit (fewstep.training.gradient_sums) unless they hold shards.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Literal

from fewstep.util.errors import FewstepError, StageFailed, from_json, to_json
from fewstep.util.files import write_atomically
from tasks.config.schema import Parallel
from tasks.engine import graph
from tasks.engine.context_message import ContextMessage
from tasks.engine.events import told_of_unit
from tasks.stages.base import Context, Stage
from tasks.storage.locks import die_with_parent
from tasks.storage.workspace import child_environment

_PATIENCE = timedelta(days=7)
"""How long a process waits for the others: one of them may be making a round's pairs alone."""
_ECHO = 30.0
"""Seconds that a process gets to say why it failed, after the others have seen its connection close."""


class Message(ContextMessage):
    """What a further process is told: the unit, the stage's context, how many there are, and the folder to meet in."""

    key: str
    unit: str
    size: int
    meeting: str
    gradient_checkpointing: bool = False
    ema_device: Literal["cpu"] | None = None
    parallel: Parallel = "replicate"

    @classmethod
    def of(cls, context: Context, unit: str, size: int, meeting: Path) -> Message:
        return cls(**ContextMessage.facts(context), key=context.key, unit=unit, size=size, meeting=str(meeting),
                   gradient_checkpointing=context.gradient_checkpointing, ema_device=context.ema_device,
                   parallel=context.parallel)  # fmt: skip


def run_unit(stage: Stage, context: Context, unit: str) -> None:
    """Do one unit, together with as many further processes as the unit has work for and the machine room.

    Raises what the unit raises, here or in another process; StageFailed for one that ended without a word.
    """
    with told_of_unit(context.observer, context.stage, unit):
        _run_unit(stage, context, unit)


def _run_unit(stage: Stage, context: Context, unit: str) -> None:
    size = _processes(stage, context, unit)
    if size == 1:
        stage.run_unit(context, unit)
        return
    with tempfile.TemporaryDirectory(prefix="fewstep-meeting-") as folder:
        others = _Others(Message.of(context, unit, size, Path(folder)))
        try:
            with others.joined():
                stage.run_unit(context, unit)
        finally:
            others.end()


def shards(stage: Stage, context: Context) -> dict[str, int]:
    """What the fingerprint of a stage's work says of shards: how many processes hold some each, nothing where all is
    held by each."""
    size = _processes(stage, context) if context.parallel == "shard" else 1
    return {"shards": size} if size > 1 else {}


def _processes(stage: Stage, context: Context, unit: str | None = None) -> int:
    """The most processes that can share the parts of the unit, and that the machine and the settings have room for."""
    parts = stage.parts(context.settings, unit)
    if parts == 1 or context.processes == 1:
        return 1
    from fewstep.training.distributed import World, devices  # loads torch

    room = min(parts, context.processes or devices())
    return next(size for size in range(room, 0, -1) if World(0, size).shares(parts))


class _Others:
    """The further processes of a unit."""

    def __init__(self, message: Message):
        self.message, self.meeting = message, Path(message.meeting)
        self._files = contextlib.ExitStack()
        text = message.model_dump_json().encode()
        self.running = {rank: self._start(rank, text) for rank in range(1, message.size)}

    def _start(self, rank: int, text: bytes) -> subprocess.Popen:
        environment = child_environment(os.environ, FEWSTEP_PARENT=str(os.getpid()))
        said = self._files.enter_context(self._said(rank).open("wb"))
        command = [sys.executable, "-m", "tasks.engine.shared_unit", str(rank)]
        # a process group of its own: Ctrl-C in the terminal is for the first process, which ends the others
        child = subprocess.Popen(command, cwd=self.message.root, env=environment, process_group=0,
                                 stdin=subprocess.PIPE, stdout=said, stderr=said)
        with contextlib.suppress(BrokenPipeError):      # it has ended, which is seen below
            child.stdin.write(text)
            child.stdin.close()
        return child

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """This process is the first of the group inside; afterwards the others have ended in good order."""
        from torch import distributed

        while not all((self.meeting / f"ready-{rank}").exists() for rank in self.running):
            self._require_alive()
            time.sleep(0.02)
        join_group(0, self.message.size, self.meeting)
        try:
            yield
            distributed.barrier()
            for child in self.running.values():
                child.wait()
            self._require_alive()
        except Exception as error:
            raise self._cause(error) from error
        finally:
            distributed.destroy_process_group()

    def _require_alive(self) -> None:
        """Raises the error of a process that has failed."""
        for rank, child in self.running.items():
            if child.poll():
                raise self._error_of(rank, child)

    def _cause(self, error: Exception) -> Exception:
        """`error`, or that of the process whose failure made it: a closed connection is the echo of another's end."""
        if not isinstance(error, RuntimeError):     # torch says so of whatever a group meets
            return error
        until = time.monotonic() + _ECHO
        while time.monotonic() < until:
            for rank, child in self.running.items():
                if child.poll():
                    return self._error_of(rank, child)
            time.sleep(0.05)
        return error

    def _error_of(self, rank: int, child: subprocess.Popen) -> Exception:
        told = self.meeting / f"error-{rank}"
        if told.exists():
            return from_json(told.read_text(encoding="utf-8"))
        how = how_it_ended(child.returncode, self._said(rank).read_bytes())
        return StageFailed(f"process {rank + 1} of {self.message.size} that share '{self.message.unit}' of stage "
                           f"'{self.message.stage}' {how}",
                           hint=None if self.message.parallel == "shard" else
                           "compute.processes: 1 does without the others, and makes the same bits")

    def _said(self, rank: int) -> Path:
        return self.meeting / f"said-{rank}.log"

    def end(self) -> None:
        """End whatever still runs; nothing is lost, as the first process alone writes."""
        for child in self.running.values():
            child.kill()
            child.wait()
        self._files.close()


def how_it_ended(code: int, said: bytes) -> str:
    """In words, how a process ended that had this exit code and printed this: `was ended by SIGKILL: last line`."""
    words = said.decode(errors="replace").strip().splitlines()
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return how + (f": {words[-1]}" if words else "")


def join_group(rank: int, size: int, meeting: Path) -> None:
    """Make this process one of the group that meets in a folder: on its own GPU where there are GPUs."""
    import torch
    from torch import distributed

    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(rank)
    distributed.init_process_group("nccl" if gpu else "gloo", init_method=f"file://{meeting / 'store'}", rank=rank,
                                   world_size=size, timeout=_PATIENCE)


def main() -> None:
    """A further process: takes part in the unit until it is done."""
    die_with_parent(int(os.environ.pop("FEWSTEP_PARENT")))
    rank = int(sys.argv[1])
    message = Message.model_validate_json(sys.stdin.buffer.read())
    meeting, stage = Path(message.meeting), graph.stage(message.stage)
    try:
        context = message.context(stage, message.key, "shared unit", ema_device=message.ema_device,
                                  parallel=message.parallel, gradient_checkpointing=message.gradient_checkpointing)
        import torch.distributed as distributed

        write_atomically(meeting / f"ready-{rank}", b"")
        join_group(rank, message.size, meeting)
        stage.join(context, message.unit)
        distributed.barrier()
    except Exception as error:
        traceback.print_exc()
        if not isinstance(error, FewstepError):
            error = StageFailed(f"process {rank + 1} of {message.size} that share '{message.unit}' of stage "
                                f"'{message.stage}': {type(error).__name__}: {error}")
        write_atomically(meeting / f"error-{rank}", to_json(error))
        sys.exit(1)
    os._exit(0)     # nothing is left to do, and taking torch apart takes seconds


if __name__ == "__main__":
    main()
