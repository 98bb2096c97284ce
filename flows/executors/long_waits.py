"""What is said where units wait and nobody does one: a queue without workers, or a place that nobody gives back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from tasks.engine.group.nodes import LONG_WAIT


class Warned(Protocol):
    def hear(self, event: dict[str, Any]) -> None: ...


class LongWaits:
    """Warns after a minute in which somebody waited and nobody worked; once, until somebody works.

    waits_for: what is waited for, in words; asked then.
    """

    def __init__(self, waits_for: Callable[[], str]):
        self._waits_for, self._lock = waits_for, threading.Lock()
        self._waiting: dict[int, Warned] = {}
        self._at_work: set[int] = set()
        self._timer: threading.Timer | None = None
        self._said = False

    def begins(self, place: int, work: Warned) -> None:
        """Who was started for this place is not heard of yet."""
        with self._lock:
            self._waiting[place] = work
            self._watch()

    def at_work(self, place: int) -> None:
        """It is heard of, and works."""
        with self._lock:
            self._waiting.pop(place, None)
            self._at_work.add(place)
            self._said = False

    def over(self, place: int) -> None:
        """It neither waits nor works."""
        with self._lock:
            self._waiting.pop(place, None)
            self._at_work.discard(place)

    def close(self) -> None:
        with self._lock:
            self._waiting.clear()
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            timer.join()

    def _watch(self) -> None:
        if self._timer is None and not self._said:
            self._timer = threading.Timer(LONG_WAIT, self._look)
            self._timer.daemon = True
            self._timer.start()

    def _look(self) -> None:
        with self._lock:
            if self._timer is None:     # closed
                return
            self._timer, work = None, next(iter(self._waiting.values()), None)
            if work is None:
                return
            self._said = not self._at_work
            self._watch()
            if not self._said:
                return
        work.hear({"warning": f"units have waited for {LONG_WAIT:.0f} s, and none has begun: {self._waits_for()}"})
