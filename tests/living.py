"""Processes found by their commands, while others begin and end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

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


def stop(pid: int) -> None:
    """SIGSTOP; returns when every thread of the process stands: until then one may still read what it is sent."""
    os.kill(pid, signal.SIGSTOP)
    while not all(_stands(task) for task in Path(f"/proc/{pid}/task").iterdir()):
        time.sleep(0.01)


def _stands(task: Path) -> bool:
    return (task / "stat").read_text().rpartition(")")[2].split()[0] == "T"
