"""`fewstep rollback`: the previous champion is champion again."""

from __future__ import annotations

import typer

from flows.orchestration.announcement import announce
from flows.output import emit, examples
from tasks.storage.workspace import Workspace


def add(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @app.command("rollback", epilog=examples("fewstep rollback digits",
                                             "fewstep rollback digits --why 'blurred sevens'"))
    def rollback(model: str = typer.Argument(..., metavar="MODEL", help="The registered model's name."),
                 store: str = typer.Option(None, "--registry", metavar="URI", help="Another MLflow store's registry."),
                 why: str = typer.Option("", "--why", help="Goes into the record."),
                 as_json: bool = typer.Option(False, "--json", help="Print the result as JSON.")) -> None:
        """Make the previous champion champion again, in one recorded step; the present one becomes @previous."""
        from tasks.registry import aliases, copy_version, webhooks  # MLflow takes seconds to load
        from tasks.registry.model_registry import parse_whole

        name = parse_whole(model, "rollback", f"`fewstep promote {model}` makes a certain version champion")
        workspace = Workspace.find()
        registry = copy_version.open_store(workspace, store)
        current, former = aliases.rollback(registry, name, why=why)
        webhooks.deliver(registry, name)
        announce(workspace, name, aliases.history(registry, name)[-1])
        result = {"model": name, "champion": former, "previous": current}
        emit(result, as_json, lambda out: out.print(f"{name}@champion is version {former} again (it was {current})"))
