"""Ctrl-C and SIGTERM end a run cleanly; a second one ends it at once, which loses nothing either."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

EXIT_CODE = 130


class Interrupted(KeyboardInterrupt):
    """The run was asked to end. Not an Exception: nothing between here and the run's own handler catches it."""


@contextlib.contextmanager
def interruptible(on_first: Callable[[], None], on_second: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM raise Interrupted in the main thread, after `on_first`; the next one calls `on_second` and
    ends the process with code 130. Both run inside a signal handler. Outside the main thread nothing is changed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen = 0

    def handle(number, frame):
        nonlocal seen
        seen += 1
        if seen > 1:
            on_second()
            os._exit(EXIT_CODE)
        on_first()
        raise Interrupted(signal.Signals(number).name)

    former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
