"""`fewstep clean`: what dead runs left behind in this checkout."""

from __future__ import annotations

import typer
from rich.console import Console

from flows.output import count, emit, examples
from tasks.engine import cleanup
from tasks.storage.locks import workspace_lock
from tasks.storage.workspace import Workspace


def add(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @app.command("clean", epilog=examples("fewstep clean --dry-run", "fewstep clean", "fewstep clean --all"))
    def clean(everything: bool = typer.Option(False, "--all", help="Also what is made again: work that unfinished runs "
                                              "would continue, pages of reports, cached statistics."),
              dry: bool = typer.Option(False, "--dry-run", help="Only list what would be removed."),
              as_json: bool = typer.Option(False, "--json", help="Print the result as JSON.")) -> None:
        """Remove unfinished work that no run will continue, and temporary files. Finished outputs are never touched."""
        workspace = Workspace.find()
        with workspace_lock(workspace, "clean"):
            removed = cleanup.clean(workspace, everything=everything, dry=dry)

        def show(out: Console) -> None:
            for item in removed:
                kind = f", half-made work of {item['stage']}" if item["stage"] else ""
                verb = "would remove" if dry else "removed"
                out.print(f"{verb} {item['what']}  ({count(item['bytes'])} bytes{kind})", markup=False)
            if not removed:
                out.print("nothing to clean")

        emit(removed, as_json, show)
