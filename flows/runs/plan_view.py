"""What `fewstep run` says of its plan: before any work which stages it would make again, why, and what they cost last
time; with nothing to do, that every stage is up to date."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.output import duration, parameters, say, size
from tasks.engine.plan import PlanItem

ELSEWHERE = {"restorable": "in the cache", "missing": "in the registry", "stale": "in the registry"}


def show_work(items: Sequence[PlanItem], out: Console) -> None:
    """The stages that would be made again or brought back from the cache: why, and how long they took last time.

    Stages that were never made are left out: nothing is lost by making them.
    """
    again = [item for item in items if item.state in ("stale", "restorable")]
    if not again:
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    for item in again:
        action = "from the cache" if item.state == "restorable" else "again"
        table.add_row(item.stage, Text(action, style="cyan" if item.state == "restorable" else "yellow"),
                      Text(item.why), Text(duration(item.last_seconds), style="dim"))
    out.print(table)
    _hint(again, out)


def _hint(items: Sequence[PlanItem], out: Console) -> None:
    kept = [item.stage for item in items if item.only_code and item.state == "stale"]
    if kept:
        say(out, f"only the code of {' and '.join(kept)} has changed: where it makes the same bits, `fewstep accept "
                 "--why TEXT` (or `fewstep run --accept --why TEXT`) keeps the results")


def trains_anew(items: Sequence[PlanItem]) -> bool:
    """Whether a training is still to be done."""
    return any(item.stage == "distill" and item.state in ("missing", "stale") for item in items)


def show_memory(networks: tuple[str, int, int, str] | None, items: Sequence[PlanItem], out: Console) -> None:
    """A line on the memory of a training that is still to be done: recipe, parameters of the given teacher, bytes."""
    if networks is not None and trains_anew(items):
        recipe, count, needed, where = networks
        say(out, f"memory: the networks of {recipe} take {size(needed)} of {where}, with a teacher of "
                 f"{parameters(count)} parameters; `fewstep estimate` tells the rest")


def show_advice(lines: Sequence[str], items: Sequence[PlanItem], out: Console) -> None:
    """A line for everything that is worth knowing of a training that is still to be done."""
    for line in lines if trains_anew(items) else ():
        _warn(line, out)


def show_idle_devices(said: dict[str, list[str]], items: Sequence[PlanItem], out: Console) -> None:
    """A line for every training that is still to be done and leaves devices idle, or has none (`said`: by stage)."""
    for item in items:
        for text in said.get(item.stage, ()) if item.state in ("missing", "stale") else ():
            _warn(text, out)


def _warn(text: str, out: Console) -> None:
    say(out, Text("warning: ", style="yellow").append(text, style="default"))


def show_plan(items: Sequence[PlanItem], out: Console) -> None:
    """What a run would do with every stage, for `fewstep run --dry-run`."""
    words = {"current": "up to date", "restorable": "from the cache", "missing": "make", "stale": "make again"}
    table = Table.grid(padding=(0, 2))
    for item in items:
        table.add_row(item.stage, Text(words[item.state], style="green" if item.state == "current" else "yellow"),
                      Text("" if item.state == "current" else item.why))
    out.print(table)
    _hint(items, out)


def warn_of_false_records(items: Sequence[PlanItem], out: Console) -> None:
    """A line for everything that plain `dvc repro` recorded wrongly."""
    for item in items:
        if item.false_record:
            say(out, f"warning: {item.false_record}")


def show_nothing_to_do(items: Sequence[PlanItem], refused: dict[str, str], out: Console) -> None:
    """That every stage is up to date, with the keys of their outputs, and what DVC's record refused, by stage."""
    out.print("[green]✓[/] nothing to do: every stage is up to date")
    for item in items:
        out.print(f"  {item.stage:<13}[dim]{item.key[:12]}[/]" + (
            "" if item.state == "current" else f"  {ELSEWHERE[item.state]}"))
    for text in refused.values():
        say(out, f"warning: {text}")
