"""`fewstep serve`: the runner of scheduled runs, and Prefect's server, in the foreground."""

from __future__ import annotations

import os

import typer

from fewstep.util.errors import SettingsError
from flows.output import console, examples, say
from flows.scheduling import scheduler
from flows.telemetry import json_log
from tasks.storage.workspace import Workspace

LOCAL = "127.0.0.1"


def add(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @app.command(epilog=examples("fewstep serve", "fewstep serve --port 4300 --limit 2",
                                 "fewstep serve --server http://prefect.example.org:4200/api",
                                 "systemctl --user enable --now fewstep   # infra/fewstep.service says how"))
    def serve(
        server: str | None = typer.Option(None, metavar="URL", help="API of a Prefect server that runs already; "
                                          "none is started then."),
        host: str = typer.Option(LOCAL, help="Address to listen on; who has the printed address may do all."),
        port: int | None = typer.Option(None, min=1, max=65535, help="Default: 4200, or a free one if that is taken."),
        limit: int = typer.Option(1, min=1, help="Scheduled runs at the same time."),
    ) -> None:
        """Serve the Prefect pages and execute scheduled runs until Ctrl-C; each works in a worktree of its own."""
        if server is not None and (port is not None or host != LOCAL):
            raise SettingsError("--server names a server that runs already, --host and --port are those of a new one: "
                                "give one of them")
        workspace = Workspace.find()
        os.chdir(workspace.root)
        out = console()

        def tell(text: str) -> None:
            json_log.write("info", text) if json_log.asked() else say(out, text)

        scheduler.serve(workspace, server=server, host=host, port=port, limit=limit, say=tell)
