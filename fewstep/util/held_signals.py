"""Ctrl-C, SIGTERM and a closed terminal, held back while work is on its way from one state that can be saved to the
next."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that ask a process to end."""


class HeldSignals:
    """Notes a signal instead of acting on it: `with HeldSignals() as held: …`.

    The work asks `held.arrived` where its state is whole, saves it and calls `held.deliver()`, which does what the
    signal would have done without this: the handler that was there before is called, or the process ends. The end of
    the block delivers too, and so does a second signal, at once, for whoever will not wait (SIGHUP is never the second:
    a closed terminal sends it more than once). Signals that are ignored stay so. Outside the main thread, which alone
    gets signals, nothing is held.

    Attributes:
        arrived: the signal that waits; None where none does.
    """

    def __init__(self) -> None:
        self.arrived: signal.Signals | None = None
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> HeldSignals:
        if threading.current_thread() is threading.main_thread():
            for number in ENDING:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: not set from Python
                    self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        self.deliver()

    def deliver(self) -> None:
        """Hold nothing from here on, and act on the signal that waits, if there is one."""
        former, self._former = self._former, {}
        for number, handler in former.items():
            signal.signal(number, handler)
        arrived, self.arrived = self.arrived, None
        if arrived is not None:
            signal.raise_signal(arrived)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.arrived is None:
            self.arrived = signal.Signals(number)
        elif number != signal.SIGHUP:
            self.deliver()
