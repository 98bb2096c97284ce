"""What a log collector sees of a run: a JSON line for each thing that a person would see in the terminal."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

from flows.telemetry import json_log
from flows.telemetry.progress_rate import Rate
from tasks.engine.events import Observer

LINE_SECONDS = 15.0     # between two lines of progress of a stage


class LogView(Observer):
    """The stages of a run as lines on the stderr of its beginning; safe to report to from several threads."""

    def __init__(self, title: str = ""):
        self.title, self.stream = title, sys.stderr
        self._lock = threading.RLock()
        self._printed: dict[str, float] = {}
        self._rates: dict[str, Rate] = {}

    @contextlib.contextmanager
    def shown(self) -> Iterator[LogView]:
        """Says what begins; there is nothing to take away at the end."""
        self._line("info", self.title)
        yield self

    def notice(self, text: str, *, passing: bool = False) -> None:
        """A line for the person watching; what is shown only until the next is left out."""
        if not passing:
            self._line("warning" if text.startswith("warning: ") else "info", text.removeprefix("warning: "))

    def stage_started(self, stage, key):
        with self._lock:
            self._rates[stage] = Rate()
        self._line("info", "started", stage=stage, event="started", key=key)

    def stage_progress(self, stage, done, total, unit="images", metrics=None, step=None):
        with self._lock:
            rate = self._rates.setdefault(stage, Rate())
            rate.add(int(done))
            if time.monotonic() - self._printed.get(stage, float("-inf")) < LINE_SECONDS:
                return
            self._printed[stage] = time.monotonic()
            per_second = rate.per_second()
        self._line("info", f"{done} of {total} {unit}", stage=stage, event="progress", done=int(done), total=int(total),
                   counted=unit, per_second=per_second, metrics=metrics or None)  # fmt: skip

    def stage_warned(self, stage, text):
        self._line("warning", text, stage=stage, event="warning")

    def stage_noted(self, stage, text):
        self._line("info", text, stage=stage, event="note")

    def stage_finished(self, stage, outcome, cost):
        self._line("info", outcome.state, stage=stage, event="finished", state=outcome.state,
                   seconds=round(outcome.seconds, 3), digest=outcome.manifest.digest)  # fmt: skip

    def stage_failed(self, stage, error):
        self._line("error", f"{type(error).__name__}: {error}", stage=stage, event="failed")

    def stage_interrupted(self, stage):
        self._line("warning", "interrupted", stage=stage, event="interrupted")

    def _line(self, level: str, message: str, **fields) -> None:
        with self._lock:
            json_log.write(level, message, self.stream, **fields)
