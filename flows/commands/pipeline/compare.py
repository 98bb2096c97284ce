"""`fewstep compare`: the report of several runs or registered versions on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewstep.util.errors import SettingsError
from flows.commands.pipeline.report import file_name, show
from flows.output import examples
from tasks.storage.workspace import Workspace


def add(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @app.command("compare", epilog=examples("fewstep compare digits@champion digits@candidate",
                                            "fewstep compare 43b4 9f10 digits/3 --out compared.html"))
    def compare(subjects: Annotated[list[str], typer.Argument(metavar="A B [C ...]",
                                                              help="Runs (their ids or the ends of them), NAME@ALIAS "
                                                                   "or NAME/VERSION; at least two.")],
                out: Annotated[Path | None, typer.Option("--out", metavar="FILE",
                                                        help="Where to write the page.")] = None,
                opened: bool = typer.Option(True, "--open/--no-open", help="Show it in the browser."),
                as_json: bool = typer.Option(False, "--json", help="Print the result as JSON.")) -> None:
        """Write one page that sets evaluations side by side, and open it.

        Values that were measured under different protocols are refused, with what differs (exit code 2).
        """
        from tasks.report.build import find, write  # loads NumPy

        if len(set(subjects)) < 2:
            raise SettingsError("compare needs at least two different runs or models, such as "
                                "digits@champion digits@candidate")
        workspace = Workspace.find()
        materials = [find(workspace, subject) for subject in subjects]
        name = "-vs-".join(file_name(material.label) for material in materials)[:120]
        path = (out or workspace.pages / f"{name}.html").absolute()
        write(path, materials)
        show(path, {"of": [material.label for material in materials]}, opened, as_json)
