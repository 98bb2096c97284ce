"""What a person sees while a run works: a table that updates in place in a terminal, plain lines elsewhere.

rich draws the table. Its Progress does not serve: its speed forgets every report older than a fixed period, so that a
stage whose units take longer than that never has one, and its time left stands still between two reports.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from flows.output import console, count, duration, rate, say
from flows.telemetry.progress_rate import Rate
from tasks.engine.events import Observer
from tasks.tracking.redaction import redact

LINE_SECONDS = 15.0     # between two lines of progress of a stage, where the output is no terminal
MARKS = {"waiting": "·", "current": "✓", "restored": "✓", "made": "✓", "failed": "✗", "stopped": "■",
         "interrupted": "■", "running": "▸"}
STYLES = {"waiting": "dim", "current": "green", "restored": "green", "made": "green", "failed": "red",
          "stopped": "yellow", "interrupted": "yellow", "running": "cyan"}
WORDS = {"current": "up to date", "restored": "restored from the cache", "made": "done"}
WIDE = 76               # columns from which on a terminal shows amounts instead of a percentage


@dataclass
class Row:
    """What is shown of one stage; `started` and `printed` on the monotonic clock, `note` stands for the bar of a stage
    that does not run."""

    state: str = "waiting"
    done: int = 0
    total: int = 0
    unit: str = "images"
    started: float | None = None
    seconds: float | None = None
    note: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    rate: Rate = field(default_factory=Rate)
    printed: float = 0.0


class LiveView(Observer):
    """Shows the stages of one run. Use as `with view.shown(): …`; safe to report to from several threads."""

    def __init__(self, stages: list[str], title: str, out: Console | None = None):
        self.out = out or console()
        self.title = title
        self.rows = {name: Row() for name in stages}
        self._lock = threading.RLock()
        self._live: Live | None = None
        self._passing = ""

    @contextlib.contextmanager
    def shown(self) -> Iterator[LiveView]:
        """Shows the table, or prints the lines, for the duration of the block."""
        if not self.out.is_terminal:
            self.out.print(self.title)
            yield self
            return
        with Live(get_renderable=self.render, console=self.out, refresh_per_second=4, redirect_stdout=False,
                  redirect_stderr=False) as self._live:
            try:
                yield self
            finally:
                self._settle()
                self._live.refresh()
        self._live = None

    def _settle(self) -> None:
        with self._lock:
            for row in self.rows.values():
                if row.state == "running":
                    row.state, row.seconds = "stopped", time.monotonic() - (row.started or time.monotonic())

    def notice(self, text: str, *, passing: bool = False) -> None:
        """A line for the person watching; with `passing`, it stands in the heading until a stage starts."""
        with self._lock:
            if passing and self._live is not None:
                self._passing = text
            elif not passing:
                say(self.out, text)

    # the observer's calls

    def stage_started(self, stage, key):
        with self._lock:
            row = self.rows[stage]
            row.state, row.started, row.note, row.rate = "running", time.monotonic(), "", Rate()
            self._passing = ""

    def stage_progress(self, stage, done, total, unit="images", metrics=None, step=None):
        with self._lock:
            row = self.rows[stage]
            row.done, row.total, row.unit = int(done), int(total), unit
            row.metrics.update(metrics or {})
            row.rate.add(int(done))
            if self._live is None and time.monotonic() - row.printed >= LINE_SECONDS:
                row.printed = time.monotonic()
                self._line(stage, self._progress_text(row))

    def stage_warned(self, stage, text):
        with self._lock:
            if self._live is None:
                self._line(stage, f"warning: {text}")
            else:
                line = Text("warning: ", style="yellow").append(f"{stage}: {redact(text)}", style="default")
                say(self.out, line)

    def stage_noted(self, stage, text):
        with self._lock:
            self._line(stage, text)

    def stage_finished(self, stage, outcome, cost):
        with self._lock:
            row = self.rows[stage]
            row.state, row.note = outcome.state, WORDS[outcome.state]
            row.seconds = outcome.seconds
            row.metrics = {}
            row.done = row.total
            if self._live is None:
                self._line(stage, row.note + (f" in {duration(row.seconds)}" if outcome.state == "made" else ""))

    def stage_failed(self, stage, error):
        with self._lock:
            row = self.rows[stage]
            row.seconds = time.monotonic() - (row.started or time.monotonic())
            row.state, row.note = "failed", "failed"
            if self._live is None:
                self._line(stage, "failed")

    def stage_interrupted(self, stage):
        with self._lock:
            row = self.rows[stage]
            row.seconds = time.monotonic() - (row.started or time.monotonic())
            row.state = row.note = "interrupted"
            if self._live is None:
                self._line(stage, "interrupted")

    # what is shown

    def _line(self, stage: str, text: str) -> None:
        say(self.out, f"{time.strftime('%H:%M:%S')} {stage}: {text}")

    @staticmethod
    def _progress_text(row: Row) -> str:
        of = f" of {count(row.total)}" if row.total else ""
        parts = [f"{count(row.done)}{of} {row.unit}"]
        if row.rate.per_second() is not None:
            parts.append(f"{rate(row.rate.per_second())}/s")
            if row.total and row.total > row.done:
                parts.append(f"{duration(row.rate.left(row.total))} left")
        parts += [f"{name} {value:.4g}" for name, value in list(row.metrics.items())[:2]]
        return ", ".join(parts)

    def render(self) -> Table:
        """The heading, a row for each stage, and the metrics of the one that runs."""
        with self._lock:
            heading = Text(self.title, style="bold", no_wrap=True, overflow="ellipsis")
            if self._passing:
                heading.append(f"  {self._passing}", style="dim")
            frame = Table.grid(expand=True)
            frame.add_row(heading)
            frame.add_row(self._stages(wide=self.out.width >= WIDE))
            measured = [row.metrics for row in self.rows.values() if row.state == "running" and row.metrics]
            if measured:
                text = "   ".join(f"{name} {value:.4g}" for name, value in list(measured[0].items())[:6])
                frame.add_row(Text(text, style="dim", no_wrap=True, overflow="ellipsis"))
        return frame

    def _stages(self, wide: bool) -> Table:
        """Columns: mark, stage, bar or note, amount, rate, time."""
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(width=1)
        table.add_column(width=12, no_wrap=True)
        table.add_column(ratio=1, no_wrap=True)
        table.add_column(width=18 if wide else 5, justify="right", no_wrap=True)
        table.add_column(width=9, justify="right", no_wrap=True)
        table.add_column(width=15 if wide else 14, justify="right", no_wrap=True)
        for name, row in self.rows.items():
            table.add_row(*(_running(name, row, wide) if row.state == "running" else _at_rest(name, row)))
        return table


def _running(name: str, row: Row, wide: bool) -> tuple[RenderableType, ...]:
    bar = ProgressBar(total=max(row.total, 1), completed=row.done, pulse=not row.total)
    amount = ""
    if row.total:
        amount = f"{count(row.done)}/{count(row.total)}" if wide else f"{row.done / row.total:.0%}"
    per_second, left = row.rate.per_second(), row.rate.left(row.total)
    seconds = f"{duration(left)} left" if left is not None else duration(time.monotonic() - row.started)
    return (Spinner("dots", style=STYLES[row.state]), Text(name, style="bold"), bar, amount,
            "" if per_second is None else f"{rate(per_second)}/s", Text(seconds, style="cyan"))


def _at_rest(name: str, row: Row) -> tuple[RenderableType, ...]:
    seconds = duration(row.seconds) if row.state in ("made", "failed", "interrupted", "stopped") else ""
    return (Text(MARKS[row.state], style=STYLES[row.state]), Text(name, style="dim" if row.state == "waiting" else ""),
            Text(row.note, style="red" if row.state == "failed" else "dim"), "", "", seconds)
