"""`fewstep clean`: what dead runs left behind in this checkout."""

from __future__ import annotations

import typer

from flows.output import count, emit, examples


def add(app: typer.Typer) -> None:
    @app.command("clean", epilog=examples("fewstep clean --dry-run", "fewstep clean", "fewstep clean --all"))
    def clean(everything: bool = typer.Option(False, "--all", help="Also what is made again: work that unfinished runs "
                                              "would continue, pages of reports, cached statistics."),
              dry: bool = typer.Option(False, "--dry-run", help="Only list what would be removed."),
              as_json: bool = typer.Option(False, "--json", help="Print the result as JSON.")) -> None:
        """Remove unfinished work that no run will continue, and temporary files. Finished outputs are never touched."""
        from tasks.engine.cleanup import clean as tidy
        from tasks.storage.locks import workspace_lock
        from tasks.storage.workspace import Workspace

        workspace = Workspace.find()
        with workspace_lock(workspace, "clean"):
            removed = tidy(workspace, everything=everything, dry=dry)

        def show(out) -> None:
            for item in removed:
                out.print(f"{'would remove' if dry else 'removed'} {item['what']}  ({count(item['bytes'])} bytes)")
            if not removed:
                out.print("nothing to clean")

        emit(removed, as_json, show)
