"""`fewstep history`: who decided what about a model, when and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.text import Text

from flows.output import emit, examples
from tasks.storage.workspace import Workspace

if TYPE_CHECKING:
    from tasks.registry.audit_log import Entry

COLOURS = {"promoted": "green", "rolled back": "green", "pending": "cyan"}


def add(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @app.command("history", epilog=examples("fewstep history digits", "fewstep history digits --json"))
    def history(model: str = typer.Argument(..., metavar="MODEL", help="The registered model's name."),
                store: str = typer.Option(None, "--registry", metavar="URI", help="Another MLflow store's registry."),
                as_json: bool = typer.Option(False, "--json", help="Print all of it as JSON, with the figures.")
                ) -> None:
        """Who promoted, refused, rejected or rolled back which version, when and why; of all hosts, if they share a
        store."""
        from tasks.registry import aliases, copy_version  # MLflow takes seconds to load
        from tasks.registry.model_registry import parse_whole

        name = parse_whole(model, "history", f"`fewstep lineage {model}` shows what a version came from")
        workspace = Workspace.find()
        registry = copy_version.open_store(workspace, store)
        entries = aliases.history(registry, name)
        emit([entry.to_dict() for entry in entries], as_json, lambda out: _show(out, name, entries))


def _show(out: Console, model: str, entries: list[Entry]) -> None:
    decided = [entry for entry in entries if entry.event not in ("intent", "abandoned")]
    for entry in decided:
        out.print(_line(model, entry))
    if not decided:
        out.print(f"nothing was decided about {model}")


def _line(model: str, entry: Entry) -> Text:
    former = "" if entry.former is None else f" (was {entry.former})"
    return Text.assemble(f"{entry.when}  ", (f"{entry.event:<11}", COLOURS.get(entry.event, "yellow")),
                         f"  {model}/{entry.to} → {entry.alias}{former}, {entry.who}  {entry.why}".rstrip())
