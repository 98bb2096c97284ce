"""`fewstep status`: what a run is doing or has done, and how to continue it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.output import count, duration, emit, examples, say, say_error
from flows.runs.progress_view import MARKS, STYLES, WORDS
from tasks.storage.workspace import Workspace
from tasks.tracking.run_records import (
    CANCELLED,
    FAILED,
    FINISHED,
    INTERRUPTED,
    KILLED,
    RUNNING,
    STOPPED,
    UNFINISHED,
    RunRecord,
    RunStore,
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
        command: continues it; None where there is nothing to continue.
    """

    record: RunRecord
    seconds: float
    alive: bool
    command: str | None

    def to_dict(self) -> dict:
        """As JSON data."""
        return self.record.model_dump() | {"seconds": self.seconds, "alive": self.alive, "continue": self.command}


def add(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @app.command(epilog=examples("fewstep status", "fewstep status ab12", "fewstep status --all",
                                 "fewstep status --json"))
    def status(
        run: str | None = typer.Argument(None, help="Id of the run, or its beginning or end; default: the newest."),
        every: bool = typer.Option(False, "--all", help="One line for each run."),
        as_json: bool = typer.Option(False, "--json", help="Print it as JSON."),
    ) -> None:
        """Each stage's state, progress and duration; for a run that stopped, why, and the command that continues it."""
        store = RunStore(Workspace.find())
        if every:
            runs = [status_of(store, record) for record in store.all()]
            emit([run.to_dict() for run in runs], as_json, lambda out: _list(runs, out))
        else:
            newest = status_of(store, store.find(run))
            emit(newest.to_dict(), as_json, lambda out: _show(newest, out))


def status_of(store: RunStore, record: RunRecord) -> Status:
    """What is true of a run now, which a killed one could not write into its record."""
    alive, unfinished = store.alive(record.id), record.state in UNFINISHED
    record = copy.deepcopy(record)
    record.state = store.state(record)
    moment = now() if alive else record.updated
    for stage in record.stages.values():
        if stage.state == RUNNING:
            stage.seconds += max(0.0, seconds_between(stage.started, moment) or 0.0)
            stage.state = RUNNING if alive else STOPPED
    seconds = sum(max(0.0, seconds_between(attempt.started, attempt.ended or moment) or 0.0)
                  for attempt in record.attempts)
    return Status(record, seconds, alive, record.resume_command if unfinished and not alive else None)


def _show(run: Status, out: Console) -> None:
    record = run.record
    line = Text("run ").append(record.id, style="bold").append("  ")
    line.append(record.state, style=COLOURS[record.state])
    line.append(f"  {duration(run.seconds)}", style="dim")
    say(out, line)
    say(out, "  ".join(_facts(record)), style="dim")
    out.print(_stages(record))
    for name, stage in record.stages.items():
        for text in stage.warnings:
            say(out, Text("warning: ", style="yellow").append(f"{name}: {text}", style="default"))
    if record.error and record.state == FAILED:
        where = f"{record.error.stage}: " if record.error.stage else ""
        say_error(out, where + record.error.message, record.error.hint)
    elif record.state == KILLED:
        say(out, "its process is gone; finished work is kept")
    if run.command:
        say(out, Text("continue with: ").append(run.command, style="bold"))


def _facts(record: RunRecord) -> list[str]:
    facts = [f"attempts {len(record.attempts)}"] if len(record.attempts) > 1 else []
    facts += ["isolated"] if record.isolated else []
    facts += [f"schedule {record.origin}"] if record.origin else []
    facts += [f"commit {record.commit[:10]}" + (" with changes" if record.modified else "")] if record.commit else []
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


def _list(runs: list[Status], out: Console) -> None:
    if not runs:
        out.print("no run yet: start one with `fewstep run`")
        return
    table = Table.grid(padding=(0, 2))
    for _ in range(4):
        table.add_column(no_wrap=True)
    for run in runs:
        stages = run.record.stages.values()
        done = sum(stage.state in ("made", "current", "restored") for stage in stages)
        table.add_row(Text(run.record.id), Text(run.record.state, style=COLOURS[run.record.state]),
                      f"{done}/{len(stages)} stages", Text(duration(run.seconds), style="dim"))
    out.print(table)
