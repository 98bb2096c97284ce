"""`fewstep status`: what a run is doing or has done, and how to continue it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.output import console, count, duration, emit, examples, say, say_error
from flows.runs.progress_view import MARKS, STYLES, WORDS
from tasks.storage.workspace import Workspace
from tasks.tracking.all_runs import AllRuns, KnownRun
from tasks.tracking.run_record import (
    CANCELLED,
    FAILED,
    FINISHED,
    INTERRUPTED,
    KILLED,
    RUNNING,
    STOPPED,
    UNFINISHED,
    RunRecord,
    now,
    seconds_between,
)

COLOURS = {RUNNING: "cyan", FINISHED: "green", FAILED: "red", KILLED: "yellow", CANCELLED: "yellow"}


@dataclass(frozen=True)
class Status:
    """A run as it is now.

    Attributes:
        record: with the true states of run and stages.
        seconds: of work, over all attempts.
        alive: whether a process works on it.
        command: continues it, on any host that knows the run; None where there is nothing to continue.
        host: the machine that works on it or did so last.
        here: whether that is this host.
    """

    record: RunRecord
    seconds: float
    alive: bool
    command: str | None
    host: str | None
    here: bool

    def to_dict(self) -> dict:
        """As JSON data."""
        return self.record.model_dump() | {"seconds": self.seconds, "alive": self.alive, "continue": self.command,
                                           "host": self.host, "here": self.here}


def add(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @app.command(epilog=examples("fewstep status", "fewstep status ab12", "fewstep status --all",
                                 "fewstep status --json"))
    def status(
        run: str | None = typer.Argument(None, help="Id of the run, or its beginning or end; default: the newest."),
        every: bool = typer.Option(False, "--all", help="One line for each run, newest first, in pages."),
        limit: int = typer.Option(50, min=1, help="With --all: runs on a page."),
        page: int = typer.Option(1, min=1, help="With --all: which page; the second has the runs before."),
        as_json: bool = typer.Option(False, "--json", help="Print it as JSON."),
    ) -> None:
        """Each stage's state, progress and duration; for a run that stopped, why, and the command that continues it."""
        runs = AllRuns(Workspace.find())
        if every:
            known, total = runs.page(page, limit)
            found = [status_of(one) for one in known]
            emit([run.to_dict() for run in found], as_json, lambda out: _list(found, out, page, limit, total))
        else:
            one = status_of(runs.find(run))
            emit(one.to_dict(), as_json, lambda out: _show(one, out))
        if runs.problem:
            say(console(stderr=True), f"runs of other hosts are not shown: {runs.problem}", style="yellow")


def status_of(known: KnownRun) -> Status:
    """What is true of a run now, which a killed one could not write into its record."""
    alive, unfinished = known.alive, known.record.state in UNFINISHED
    record = copy.deepcopy(known.record)
    record.state = known.state
    moment = now() if alive else record.updated
    for stage in record.stages.values():
        if stage.state == RUNNING:
            stage.seconds += max(0.0, seconds_between(stage.started, moment) or 0.0)
            stage.state = RUNNING if alive else STOPPED
    seconds = sum(max(0.0, seconds_between(attempt.started, attempt.ended or moment) or 0.0)
                  for attempt in record.attempts)
    command = record.resume_command if unfinished and not alive else None
    return Status(record, seconds, alive, command, known.host, known.here)


def _show(run: Status, out: Console) -> None:
    record = run.record
    line = Text("run ").append(record.id, style="bold").append("  ")
    line.append(record.state, style=COLOURS[record.state])
    line.append(f"  {duration(run.seconds)}", style="dim")
    say(out, line)
    say(out, "  ".join(_facts(run)), style="dim")
    out.print(_stages(record))
    for name, stage in record.stages.items():
        if stage.note and stage.state == RUNNING:
            say(out, f"{name}: {stage.note}", style="dim")
        for text in stage.warnings:
            say(out, Text("warning: ", style="yellow").append(f"{name}: {text}", style="default"))
    if record.error and record.state == FAILED:
        where = f"{record.error.stage}: " if record.error.stage else ""
        say_error(out, where + record.error.message, record.error.hint)
    elif record.state == KILLED:
        say(out, "its process is gone; finished work is kept")
    if run.command:
        say(out, Text("continue with: ").append(run.command, style="bold"))


def _facts(run: Status) -> list[str]:
    record = run.record
    facts = [] if run.here else [f"on {run.host}"]
    facts += [f"attempts {len(record.attempts)}"] if len(record.attempts) > 1 else []
    facts += ["isolated"] if record.isolated else []
    facts += [f"schedule {record.origin}"] if record.origin else []
    facts += [f"commit {record.commit[:10]}" + (" with changes" if record.modified else "")] if record.commit else []
    facts += [f"code {record.code.told()}"] if record.code is not None else []
    facts += [f"MLflow run {record.mlflow['run'][:8]}"] if record.mlflow.get("run") else []
    return facts


def _stages(record: RunRecord) -> Table:
    table = Table.grid(padding=(0, 1))
    for _ in range(5):
        table.add_column(no_wrap=True)
    for name, stage in record.stages.items():
        state = stage.state
        progress = ""
        if stage.total and state in (RUNNING, INTERRUPTED, STOPPED, FAILED):
            progress = f"{count(stage.done)} of {count(stage.total)} {stage.unit}"
        seconds = duration(stage.seconds) if stage.seconds >= 0.5 and state != "current" else ""
        table.add_row(Text(MARKS.get(state, "?"), style=STYLES.get(state, "")), Text(name),
                      Text(WORDS.get(state, state), style=STYLES.get(state, "")), Text(progress),
                      Text(seconds, style="dim"))
    return table


def _list(runs: list[Status], out: Console, page: int, limit: int, total: int) -> None:
    if not runs:
        out.print(f"there are {count(total)} runs, and none on page {page}" if total
                  else "no run yet: start one with `fewstep run`")
        return
    table = Table.grid(padding=(0, 2))
    for _ in range(5):
        table.add_column(no_wrap=True)
    for run in runs:
        stages = run.record.stages.values()
        done = sum(stage.state in ("made", "current", "restored") for stage in stages)
        table.add_row(Text(run.record.id), Text(run.record.state, style=COLOURS[run.record.state]),
                      f"{done}/{len(stages)} stages", Text(duration(run.seconds), style="dim"),
                      Text("" if run.here else f"on {run.host}", style="dim"))
    out.print(table)
    if page * limit < total:
        size = "" if limit == 50 else f" --limit {limit}"
        say(out, f"{count(total - page * limit)} older: fewstep status --all{size} --page {page + 1}", style="dim")
