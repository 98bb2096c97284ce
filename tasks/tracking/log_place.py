"""What is being worked on where a line is logged: the run of this process, the stage and the unit of this thread."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_process: dict[str, str] = {}
_thread: ContextVar[dict[str, str] | None] = ContextVar("fewstep_log_place", default=None)


def process_works_on(run: str) -> None:
    """All that this process logs from here on belongs to `run`: a process works on one run at a time."""
    _process["run"] = run


@contextlib.contextmanager
def working_on(**names: str) -> Iterator[None]:
    """What this thread logs inside the block belongs to the named `stage` or `unit` too."""
    token = _thread.set({**(_thread.get() or {}), **names})
    try:
        yield
    finally:
        _thread.reset(token)


def place() -> dict[str, str]:
    """`run`, `stage` and `unit`, those that are known here."""
    return {**_process, **(_thread.get() or {})}
