"""`fewstep ui`: the Prefect and MLflow pages."""

from __future__ import annotations

import json

import typer

from flows.output import console, examples, say
from flows.runs import web_pages
from tasks.config import params_file
from tasks.storage.workspace import Workspace


def add(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @app.command(epilog=examples("fewstep ui", "fewstep ui --json"))
    def ui(
        host: str = typer.Option("127.0.0.1", help="Address to listen on; who has the printed address may do all."),
        as_json: bool = typer.Option(False, "--json", help="Print the addresses as JSON when they answer."),
    ) -> None:
        """Start the Prefect and MLflow pages on this machine's data and print their addresses; Ctrl-C ends them."""
        workspace = Workspace.find()
        out = console()

        def tell(addresses: dict[str, str]) -> None:
            if as_json:
                print(json.dumps(addresses), flush=True)
                return
            for name, address in addresses.items():
                say(out, f"{name:<9}{address}")
            out.print("Ctrl-C ends what was started here", style="dim")

        if not as_json:
            out.print("starting …", style="dim")
        settings = params_file.load(workspace.params)
        web_pages.show(workspace, settings.profile, settings.name, host=host, say=tell)
