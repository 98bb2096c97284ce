"""Ctrl-C, SIGTERM and a closed terminal (SIGHUP) end a run cleanly; a second Ctrl-C or SIGTERM ends it at once, which
loses nothing either."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator

from flows.system_errors import lead_nowhere

EXIT_CODE = 130


class Interrupted(KeyboardInterrupt):
    """The run was asked to end. Not an Exception: nothing between here and the run's own handler catches it."""


def ending_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask a process to end; without SIGHUP where that is ignored, as under `nohup`."""
    hangup = () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGINT, signal.SIGTERM, *hangup)


def leave_terminal() -> None:
    """After SIGHUP: what is still printed goes nowhere, where writing to the closed terminal would be an error."""
    for stream in (0, 1, 2):
        with contextlib.suppress(OSError):      # closed from the start
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                lead_nowhere(stream)


@contextlib.contextmanager
def handled(handle: Callable[[int], None]) -> Iterator[None]:
    """Calls `handle` with the number of each signal that asks the process to end, in the main thread."""

    def called(number, frame):
        if number == signal.SIGHUP:
            leave_terminal()
        handle(number)

    former = {number: signal.signal(number, called) for number in ending_signals()}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def interruptible(on_first: Callable[[], None], on_second: Callable[[], None]) -> Iterator[None]:
    """The first signal raises Interrupted in the main thread, after `on_first`; the next one calls `on_second` and ends
    the process with code 130. Both run inside a signal handler. Outside the main thread nothing is changed.

    SIGHUP is never the next one: the kernel and the shell both send it when a terminal is closed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen = 0

    def handle(number: int) -> None:
        nonlocal seen
        if seen and number == signal.SIGHUP:
            return
        seen += 1
        if seen > 1:
            on_second()
            os._exit(EXIT_CODE)
        on_first()
        raise Interrupted(signal.Signals(number).name)

    with handled(handle):
        yield
