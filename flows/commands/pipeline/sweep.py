"""`fewstep sweep`: every recipe on the same data and budget, as one table."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from fewstep.recipes import load_recipe, recipe_names
from flows.orchestration.prefect_api import prefect_api
from flows.output import console, emit, examples, say
from flows.runs import profiles
from flows.runs.isolated import resolve
from flows.runs.log_capture import drain, logs_to
from tasks.report import recipe_table
from tasks.storage.workspace import Workspace

Sets = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="For every recipe alike.")]


def add(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @app.command(epilog=examples("fewstep sweep", "fewstep sweep kd dmd2 ect --images 100000",
                                 "fewstep sweep --set data.source=raw"))
    def sweep(
        recipes: Annotated[list[str] | None, typer.Argument(help="Names or YAML files; all that there are.")] = None,
        images: Annotated[int | None, typer.Option(min=1, help="Training samples of each, as distill.images.")] = None,
        sets: Sets = None,
        as_json: bool = typer.Option(False, "--json", help="Print the rows as JSON; progress goes to stderr."),
    ) -> None:
        """Run the pipeline with each recipe and write docs/digits.md, with metrics and plot that DVC knows.

        Each recipe runs in a worktree of its own: params.yaml and data stay as they are. What recipes share is made
        once; what is done already is not done again, so that an interrupted sweep goes on where it was.
        """
        workspace, names = Workspace.find(), list(dict.fromkeys(recipes or recipe_names()))
        for name in names:
            load_recipe(name)
        settings, _ = resolve(workspace, sets or [], None)
        profiles.check(settings.profile)
        images = images or settings.distill.images
        log = workspace.shared / "sweep" / "prefect.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with prefect_api(workspace, settings.profile, log):
            progress = console(stderr=as_json)
            with logs_to(log):
                from flows.orchestration.sweep_flow import Sweep  # Prefect reads its environment on import

                try:
                    rows = Sweep(workspace, names, sets or [], images, settings.name, quiet=as_json,
                                 say=lambda text: say(progress, text)).run()
                finally:
                    drain()
        recipe_table.write(workspace.root, rows, images)
        failed = [row for row in rows if "error" in row]

        def show(out: Console) -> None:
            for row in failed:
                say(out, f"{row['recipe']} failed: {row['error']}", style="bold red")
            known = f"`dvc metrics show {recipe_table.FOLDER}/*.json` and `dvc plots show`"
            say(out, f"{len(rows) - len(failed)} recipes in {recipe_table.DOCUMENT}; {known}")

        emit(rows, as_json, show)
        if failed:
            raise typer.Exit(1)
