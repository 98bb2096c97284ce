"""`fewstep checkout`: the params.yaml, dvc.lock and data that a registered version came from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.output import emit, examples
from tasks.storage.workspace import Workspace


def add(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @app.command("checkout", epilog=examples("fewstep checkout digits@champion",
                                             "fewstep checkout digits/3 --into ../v3"))
    def checkout(model: str = typer.Argument(..., metavar="MODEL@ALIAS", help="NAME, NAME@ALIAS or NAME/VERSION."),
                 force: bool = typer.Option(False, "--force", help="Overwrite local changes."),
                 into: Annotated[Path | None, typer.Option("--into", metavar="DIR",
                                                           help="A new worktree there instead.")] = None,
                 as_json: bool = typer.Option(False, "--json", help="Print the result as JSON.")) -> None:
        """Restore what a registered version came from; data comes from DVC's cache or its remote and is verified.

        Local changes are never overwritten without --force.
        """
        from tasks.registry.checkout import checkout as restore  # MLflow takes seconds to load
        from tasks.registry.model_registry import Registry

        registry = Registry(Workspace.find())
        done = restore(registry, registry.resolve(model), force=force, into=into)
        result = {"version": done.version.name, "root": str(done.root), "outputs": list(done.outputs)}

        def show(out: Console) -> None:
            out.print(f"[green]restored[/]  {done.version.name}: params.yaml, dvc.lock and {len(done.outputs)} "
                      "verified outputs", soft_wrap=True)
            if into is not None:
                out.print(f"  in {done.root}", markup=False, soft_wrap=True)

        emit(result, as_json, show)
