"""A process that does units of work: `python -m tasks.unit`.

Each line of standard input is a `UnitMessage`; each line of standard output is an event of the unit under way, as
`UnitWork.hear` takes it, before the first one `{"begun": HOST}`, and at its end `{"done": true}` or `{"error": …}`. A
line `{"share": …}` asks for this node's part of a unit that several share (tasks.engine.group.share), and ends in the
same way. Whatever else is printed goes to standard error. The process ends with its input, in the middle of a unit too:
finished work lies on disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fewstep.util.errors import FewstepError, StageFailed, to_json
from fewstep.util.files import disk_full, is_disk_full
from fewstep.util.plain_data import from_json
from tasks.engine import graph
from tasks.engine.events import Observer
from tasks.engine.group.ranks import Message
from tasks.engine.group.share import Share, take_part
from tasks.engine.unit_exchange import UnitCache, brought, unseen, upload
from tasks.engine.unit_logs import Tell, logs_told
from tasks.engine.unit_work import UnitMessage
from tasks.stages.base import Context


class UnitContext(Context):
    """The context of a unit whose work another process looks after: it is told of what there is to count or to say."""

    tell: Tell

    def advance(self, count: int) -> None:
        self.tell({"advance": count})

    def record_cost(self, figures: dict) -> None:
        self.tell({"cost": figures})

    def warn(self, text: str) -> None:
        self.tell({"warning": text})


class Units:
    """Does units one after the other. What those of one work share, such as a loaded teacher, is kept between them."""

    def __init__(self):
        self._work: _Work | None = None
        self._told = False      # that there is somebody

    def do(self, message: UnitMessage, tell: Tell) -> None:
        """Do one unit. Raises what it raises."""
        from fewstep.util.torch_threads import threads  # torch

        if not self._told:
            tell({"begun": socket.gethostname()})
            self._told = True
        with threads(message.threads):
            if self._work is None or self._work.of != message.work_of:
                self.close()
                self._work = _Work(message)
            self._work.do(message.unit, tell)

    def close(self) -> None:
        """Let go of what is kept."""
        if self._work is not None:
            self._work.close()
        self._work = None


class _Work:
    """The work that units belong to, in this process.

    Raises SettingsError for a process that does not see the run's disk and was not told of another place.
    """

    def __init__(self, message: UnitMessage):
        self.of, self.stage, self.key = message.work_of, graph.stage(message.stage), message.key
        self._stack, self._store, self._sent = contextlib.ExitStack(), None, frozenset()
        self._told = False      # where the work is done
        if message.sees_the_work:
            previous = None if message.previous is None else Path(message.previous)
        else:
            message, previous = self._brought(message), None
        self.context = message.context(
            self.stage, message.key, "a unit's message", UnitContext, observer=Observer(), previous=previous,
            previous_code_equal=message.previous_code_equal)  # fmt: skip

    def _brought(self, message: UnitMessage) -> UnitMessage:
        """The message with folders of this host, in which lies what it needs."""
        if message.offer is None:
            raise unseen(socket.gethostname(), message.work)
        self._store = message.offer.store
        return brought(message, message.offer, self._stack.enter_context(UnitCache().working_folder()))

    def do(self, unit: str, tell: Tell) -> None:
        from fewstep.util.torch_threads import threads  # torch

        self.context.tell = tell
        if not self._told:
            tell({"fingerprint": fingerprint_here()})
            self._told = True
        if self.stage.parallel:     # its bits do not depend on the threads, as it is done with one
            with threads(1):
                self.stage.run_unit(self.context, unit)
        else:
            self.stage.run_unit(self.context, unit)
        if self._store is not None:
            made = upload(self._store, self.key, self.context.work, self._sent)
            self._sent |= {file.path for file in made}
            tell({"made": [file.model_dump() for file in made]})

    def close(self) -> None:
        self._stack.close()


def fingerprint_here() -> dict:
    """The fingerprint of this process, with its number of threads as it is now."""
    from fewstep.util import fingerprint  # torch
    from fewstep.util.device import default_device

    return fingerprint.fingerprint(default_device())


def done(units: Units, message: UnitMessage, tell: Tell) -> None:
    """Do a unit, and tell what is logged meanwhile and how it ended."""
    with logs_told(tell) as telling:
        _told(lambda: units.do(message, telling), message, telling)


def shared(share: Share, hear: Callable[[], str], tell: Tell) -> None:
    """Take part in a unit and tell how it ended."""
    _told(lambda: take_part(share, hear, tell), share.message, tell)


def _told(work: Callable[[], None], message: UnitMessage | Message, tell: Tell) -> None:
    try:
        work()
    except FewstepError as error:
        tell({"error": to_json(error)})
    except Exception as error:
        traceback.print_exc()
        tell({"error": to_json(_in_words(error, message))})
    else:
        tell({"done": True})


def _in_words(error: Exception, message: UnitMessage | Message) -> FewstepError:
    if is_disk_full(error):
        return disk_full(message.work)
    return StageFailed(f"stage '{message.stage}', unit {message.unit}: {type(error).__name__}: {error}")


def main() -> None:
    """Do the units that come in until no more will."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    units = Units()

    def tell(event: dict[str, Any]) -> None:
        answers.write(json.dumps(event) + "\n")
        answers.flush()

    while True:
        line = lines.get()
        share = from_json(line).get("share")
        if share is None:
            done(units, UnitMessage.model_validate_json(line), tell)
        else:
            shared(Share.model_validate(share), lines.get, tell)


def _read(lines: queue.Queue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)     # whoever gave the units has gone, or needs no more


if __name__ == "__main__":
    main()
