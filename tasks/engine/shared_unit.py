"""A unit of work that processes share: of this machine, and of the other nodes that `compute.nodes` asks for.

The process that runs the stage is the first and the only one that writes, but for what others alone hold of a
checkpoint (compute.parallel: shard). The others compute their parts of every batch
and end with it, whatever ends it; when one of them fails, so does the unit, with that one's error, and its checkpoints
stand. How many there are changes no bit (fewstep.training.gradient_sums) unless they hold shards.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fewstep.util.cores import cores
from fewstep.util.errors import SettingsError, StageFailed
from tasks.engine import work_fingerprints
from tasks.engine.context_message import ContextMessage, marked
from tasks.engine.events import told_of_unit
from tasks.engine.group import nodes
from tasks.engine.group.meeting import Meeting, join
from tasks.engine.group.ranks import Message, Ranks
from tasks.engine.group.share import Begun, Share
from tasks.engine.unit_exchange import required_offer, upload
from tasks.stages.base import Context, Stage

_ECHO = 30.0
"""Seconds that a process gets to say why it failed, after the others have seen its connection close."""


def run_unit(stage: Stage, context: Context, unit: str) -> None:
    """Do one unit, together with as many further processes as the unit has work for and the machines room.

    Raises what the unit raises, here or in another process; StageFailed for one that ended without a word.
    """
    with told_of_unit(context.observer, context.stage, unit):
        _run_unit(stage, context, unit)


def _run_unit(stage: Stage, context: Context, unit: str) -> None:
    places, each = _layout(stage, context, unit)
    if places * each == 1:
        stage.run_unit(context, unit)
        return
    with tempfile.TemporaryDirectory(prefix="fewstep-meeting-") as folder:
        others = _Others(context, unit, places, each, Path(folder))
        try:
            with others.joined():
                stage.run_unit(context, unit)
        finally:
            others.end()


def shards(stage: Stage, context: Context) -> dict[str, int]:
    """What the fingerprint of a stage's work says of shards: how many processes hold some each, nothing where all is
    held by each."""
    places, each = _layout(stage, context) if context.parallel == "shard" else (1, 1)
    return {"shards": places * each} if places * each > 1 else {}


def _layout(stage: Stage, context: Context, unit: str | None = None) -> tuple[int, int]:
    """On how many nodes how many processes each share the parts of the unit: the most that can, and that the machines
    and the settings have room for; of equally many on the fewest nodes."""
    parts = stage.parts(context.settings, unit)
    most = 1 if context.nodes is None else context.nodes.count
    if parts == 1 or (context.processes == 1 and most == 1):
        return 1, 1
    from fewstep.training.distributed import devices  # loads torch

    return layout(parts, most, context.processes or devices())


def layout(parts: int, most: int, room: int) -> tuple[int, int]:
    """On how many of `most` nodes, with room for so many processes each, how many processes each share the parts."""
    if parts == 1 or most * room == 1:
        return 1, 1
    from fewstep.training.distributed import World  # loads torch

    found = [(places, each) for places in range(1, most + 1) for each in range(1, min(parts, room) + 1)
             if World(0, places * each).shares(parts)]  # fmt: skip
    return max(found, key=lambda one: (one[0] * one[1], -one[0]))


class _Others:
    """The further processes of a unit, which is shared by `each` on each of `places` nodes."""

    def __init__(self, context: Context, unit: str, places: int, each: int, folder: Path):
        import torch  # whoever shares a unit has loaded it

        self.context, self._each, size = context, each, places * each
        self._meeting = Meeting(size) if places > 1 else None
        self.message = Message(
            **ContextMessage.facts(context), key=context.key, unit=unit, size=size, gpus=torch.cuda.is_available(),
            address=self._meeting.address if self._meeting else f"file://{folder / 'store'}",
            mark=context.once(marked) if self._meeting else "", gradient_checkpointing=context.gradient_checkpointing,
            ema_device=context.ema_device, parallel=context.parallel, reshard=context.reshard)  # fmt: skip
        self._ranks, self._links = Ranks(self.message, range(1, each), folder), []
        if self._meeting:
            try:
                self._links = context.nodes.start(places)
            except BaseException:
                self.end()
                raise
            threads = int(os.environ.get("OMP_NUM_THREADS", "0") or 0) or cores()
            for number, link in enumerate(self._links, 1):
                share = Share(message=self.message, first=number * each, count=each, threads=threads)
                link.say({"share": share.model_dump(mode="json")})

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """This process is the first of the group inside; afterwards the others have ended in good order."""
        from torch import distributed

        self._wait_until_ready()
        join(self.message.address, 0, self.message.size, 0, self._meeting and self._meeting.store)
        began, failed = time.time(), None
        try:
            yield
            distributed.barrier()
            while not (self._ranks.done and all(link.done for link in self._links)):
                self._hear()
                time.sleep(0.02)
        except Exception as error:
            failed = self._cause(error)
            raise failed from error
        finally:
            distributed.destroy_process_group()
            self._tell_ranks(began, failed)

    def _wait_until_ready(self) -> None:
        waiting, long = set(self._links), time.monotonic() + nodes.LONG_WAIT
        while waiting or not self._ranks.ready:
            self._ranks.require_alive()
            for link in list(waiting):
                match link.heard():
                    case {"unseen": host}:
                        link.say(self._begun(link, host).model_dump(mode="json"))
                    case {"ready": fingerprint}:
                        work_fingerprints.note(self.context, fingerprint | self._shards)
                        waiting.remove(link)
            if waiting and time.monotonic() > long:
                long = math.inf
                names = ", ".join(link.awaited for link in self._links if link in waiting)
                self.context.warn(f"'{self.message.unit}' has waited for {nodes.LONG_WAIT:.0f} s, and begins when all "
                                  f"nodes take part; not yet there: {names}")
            time.sleep(0.02)

    @property
    def _shards(self) -> dict[str, int]:
        return {"shards": self.message.size} if self.message.parallel == "shard" else {}

    def _begun(self, link: nodes.Link, host: str) -> Begun:
        """What a node needs that does not see this disk."""
        if self.message.parallel == "shard":
            raise SettingsError(f"{host} does not see {self.context.work}, where each process keeps its rows of "
                                "checkpoints (compute.parallel: shard)",
                                hint="give the nodes one disk, or set compute.parallel: replicate")
        there = required_offer(self.context, host)
        return Begun(offer=there, scratch=upload(there.store, self.context.key, self.context.scratch))

    def _tell_ranks(self, began: float, failed: Exception | None) -> None:
        """Of each process that took part, how it ended; `failed` is the unit's error, the first one's own where no
        other has one."""
        here, ended, errors = socket.gethostname(), time.time(), self._ranks.errors()
        for number, link in enumerate(self._links, 1):
            errors |= {rank: link.error for rank in range(number * self._each, (number + 1) * self._each) if link.error}
        errors = errors or ({0: failed} if failed else {})
        for rank in range(self.message.size):
            place = self._links[rank // self._each - 1].name if rank >= self._each else here
            self.context.observer.rank_finished(self.context.stage, self.message.unit, rank, place, began, ended,
                                                errors.get(rank))

    def _hear(self) -> None:
        """Raises the error of a process that has failed, as far as it is known."""
        self._ranks.require_alive()
        for link in self._links:
            link.heard()

    def _cause(self, error: Exception) -> Exception:
        """`error`, or that of the process whose failure made it: a closed connection is the echo of another's end."""
        if not isinstance(error, RuntimeError):     # torch says so of whatever a group meets
            return error
        until = time.monotonic() + _ECHO
        while time.monotonic() < until:
            try:
                self._hear()
            except Exception as cause:
                return cause
            time.sleep(0.05)
        if self._links and "gloo" in str(error):
            others = ", ".join(link.name for link in self._links)
            return StageFailed(f"the processes that share '{self.message.unit}' of stage '{self.message.stage}' lost "
                               f"each other, and none says why (other nodes: {others}): {str(error).splitlines()[0]}",
                               hint="see whether these nodes are up and reached; the same command goes on from the "
                               "last checkpoint")
        return error

    def end(self) -> None:
        """End whatever still runs; nothing is lost, as the first process alone writes."""
        for link in self._links:
            link.end()
        self._ranks.end()
