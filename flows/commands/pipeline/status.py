"""`fewstep status`: what a run is doing or has done, and how to continue it."""

from __future__ import annotations

import typer

from flows.output import count, duration, emit, examples, say, say_error

COLOURS = {"running": "cyan", "finished": "green", "failed": "red", "killed": "yellow", "cancelled": "yellow"}


def add(app: typer.Typer) -> None:
    @app.command(epilog=examples("fewstep status", "fewstep status ab12", "fewstep status --all",
                                 "fewstep status --json"))
    def status(
        run: str | None = typer.Argument(None, help="Id of the run, or its beginning or end; default: the newest."),
        every: bool = typer.Option(False, "--all", help="One line for each run."),
        as_json: bool = typer.Option(False, "--json", help="Print it as JSON."),
    ) -> None:
        """Each stage's state, progress and duration; for a run that stopped, why, and the command that continues it."""
        from tasks.storage.workspace import Workspace
        from tasks.tracking.run_records import RunStore

        store = RunStore(Workspace.find())
        if every:
            records = [describe(store, record) for record in store.all()]
            emit(records, as_json, lambda out: _list(records, out))
        else:
            data = describe(store, store.find(run))
            emit(data, as_json, lambda out: _show(data, out))


def describe(store, record) -> dict:
    """A run's record with the state that is true now, and the command that continues it (None when there is none)."""
    from tasks.tracking.run_records import UNFINISHED, now, seconds_between

    data = record.model_dump()
    alive = store.alive(record.id)
    data["state"] = store.state(record)
    moment = now() if alive else record.updated
    for stage in data["stages"].values():
        if stage["state"] == "running":
            stage["seconds"] += max(0.0, seconds_between(stage["started"], moment) or 0.0)
            stage["state"] = "running" if alive else "stopped"
    data["seconds"] = sum(max(0.0, seconds_between(attempt.started, attempt.ended or moment) or 0.0)
                          for attempt in record.attempts)
    data["alive"] = alive
    data["continue"] = record.resume_command if record.state in UNFINISHED and not alive else None
    return data


def _show(data: dict, out) -> None:
    from rich.table import Table
    from rich.text import Text

    from flows.runs.progress_view import MARKS, STYLES, WORDS

    line = Text("run ").append(data["id"], style="bold").append("  ")
    line.append(data["state"], style=COLOURS[data["state"]])
    line.append(f"  {duration(data['seconds'])}", style="dim")
    say(out, line)
    facts = [f"attempts {len(data['attempts'])}"] if len(data["attempts"]) > 1 else []
    facts += ["isolated"] if data["isolated"] else []
    facts += [f"schedule {data['origin']}"] if data["origin"] else []
    facts += [f"commit {data['commit'][:10]}" + (" with changes" if data["modified"] else "")] if data["commit"] else []
    facts += [f"MLflow run {data['mlflow']['run'][:8]}"] if data["mlflow"].get("run") else []
    say(out, "  ".join(facts), style="dim")
    table = Table.grid(padding=(0, 1))
    for _ in range(5):
        table.add_column(no_wrap=True)
    for name, stage in data["stages"].items():
        state = stage["state"]
        progress = ""
        if stage["total"] and state in ("running", "stopped", "failed"):
            progress = f"{count(stage['done'])} of {count(stage['total'])} {stage['unit']}"
        seconds = duration(stage["seconds"]) if stage["seconds"] >= 0.5 and state not in ("current",) else ""
        table.add_row(Text(MARKS.get(state, "?"), style=STYLES.get(state, "")), name,
                      Text(WORDS.get(state, state), style=STYLES.get(state, "")), progress, Text(seconds, style="dim"))
    out.print(table)
    for name, stage in data["stages"].items():
        for text in stage["warnings"]:
            say(out, Text("warning: ", style="yellow").append(f"{name}: {text}", style="default"))
    error = data["error"]
    if error and data["state"] == "failed":
        where = f"{error['stage']}: " if error.get("stage") else ""
        say_error(out, where + error["message"], error.get("hint"))
    elif data["state"] == "killed":
        say(out, "its process is gone; finished work is kept")
    if data["continue"]:
        say(out, Text("continue with: ").append(data["continue"], style="bold"))


def _list(records: list[dict], out) -> None:
    from rich.table import Table
    from rich.text import Text

    if not records:
        out.print("no run yet: start one with `fewstep run`")
        return
    table = Table.grid(padding=(0, 2))
    for _ in range(4):
        table.add_column(no_wrap=True)
    for data in records:
        done = sum(stage["state"] in ("made", "current", "restored") for stage in data["stages"].values())
        table.add_row(data["id"], Text(data["state"], style=COLOURS[data["state"]]),
                      f"{done}/{len(data['stages'])} stages", Text(duration(data["seconds"]), style="dim"))
    out.print(table)
