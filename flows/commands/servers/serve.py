"""`fewstep serve`: Prefect's server and the runner of scheduled runs, in the foreground."""

from __future__ import annotations

import os

import typer

from flows.output import console, examples, say
from flows.scheduling import scheduler
from tasks.storage.workspace import Workspace


def add(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @app.command(epilog=examples("fewstep serve", "fewstep serve --port 4300 --limit 2",
                                 "systemctl --user enable --now fewstep   # infra/fewstep.service says how"))
    def serve(
        host: str = typer.Option("127.0.0.1", help="Address to listen on; who has the printed address may do all."),
        port: int | None = typer.Option(None, min=1, max=65535, help="Default: 4200, or a free one if that is taken."),
        limit: int = typer.Option(1, min=1, help="Scheduled runs at the same time."),
    ) -> None:
        """Serve the Prefect pages and execute scheduled runs until Ctrl-C; each works in a worktree of its own."""
        workspace = Workspace.find()
        os.chdir(workspace.root)
        out = console()
        scheduler.serve(workspace, host=host, port=port, limit=limit, say=lambda text: say(out, text))
