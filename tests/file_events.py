"""What a process does, as events that have the same number on a machine of any pace, and its death before one of them.

An event is a change of a file in a folder (to begin to write one, to rename, link or delete it, to make a folder) or
what is sent by HTTP. Python's audit hooks tell of them: the code that runs knows nothing of it.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from itertools import pairwise
from typing import Any

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "open"}
_SENDS = {"http.client.send"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class FileEvents:
    """Counts the events of this process from its making on; they cannot be ended.

    Attributes:
        count: how many there were.
        fatal: the number of the one before which the process group dies; None: none.
        watching: whether events count now.
    """

    def __init__(self, folder: str, fatal: int | None = None, besides: tuple[str, ...] = ()):
        self.count, self.fatal, self.watching = 0, fatal, True
        self._folder = f"{os.path.abspath(folder)}/"
        self._besides = tuple(f"{self._folder}{name}/" for name in besides)
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.watching and (event in _SENDS or self._is_change(event, arguments)):
            self.count += 1
            if self.count == self.fatal:
                os.killpg(0, signal.SIGKILL)

    def _is_change(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event not in _CHANGES or (event == "open" and not arguments[2] & _WRITES):
            return False
        try:
            path = os.path.abspath(os.fsdecode(arguments[0]))
        except TypeError:       # a handle: the file was named when it was opened
            return False
        return path.startswith(self._folder) and not path.startswith(self._besides)


def drawn(events: int, kills: int, generator: random.Random) -> list[int]:
    """Numbers of the events that one start after the other dies before, spread evenly over all `events` of the work.

    Each start goes on with what the one before it left, so its number counts from there. What is left may have fewer
    events than it had when nothing was disturbed: then a late one is not met, and the work ends.
    """
    places = [0, *(1 + int((number + generator.random()) * events / kills) for number in range(kills))]
    return [max(1, place - former) for former, place in pairwise(places)]
