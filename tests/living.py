"""Processes found by their commands, while others begin and end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

import psutil


def with_word(word: str, among: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those in whose command a word holds this one; none that has ended meanwhile."""
    found = []
    for process in among:
        with suppress(psutil.Error):
            if any(word in one for one in process.cmdline()):
                found.append(process)
    return found


def below(pid: int | None = None) -> Iterator[psutil.Process]:
    """All that a process (this one) started, directly or not; nothing of one that has ended."""
    with suppress(psutil.NoSuchProcess):
        yield from psutil.Process(pid).children(recursive=True)
