"""`fewstep report`: the page of an evaluation, of a run or of a registered version."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from flows.output import emit, examples
from tasks.storage.workspace import Workspace


def add(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @app.command("report", epilog=examples("fewstep report", "fewstep report digits@champion",
                                           "fewstep report 43b4 --out /tmp/run.html --no-open"))
    def report(subject: str = typer.Argument(None, metavar="[RUN|MODEL@ALIAS]",
                                             help="A run (its id or the end of it), NAME@ALIAS or NAME/VERSION; what "
                                                  "is published here if left out."),
               out: Annotated[Path | None, typer.Option("--out", metavar="FILE",
                                                        help="Where to write the page.")] = None,
               opened: bool = typer.Option(True, "--open/--no-open", help="Show it in the browser."),
               as_json: bool = typer.Option(False, "--json", help="Print the result as JSON.")) -> None:
        """Write the report, one HTML file that needs no network, and open it."""
        from tasks.report.build import find, write  # loads NumPy

        workspace = Workspace.find()
        material = find(workspace, subject)
        path = (out or workspace.pages / f"{file_name(material.label)}.html").absolute()
        write(path, [material])
        show(path, {"of": material.label}, opened, as_json)


def file_name(text: str) -> str:
    """A label as the name of a file."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in text)


def show(path: Path, facts: dict, opened: bool, as_json: bool) -> None:
    """Says where the page is, with more `facts` in JSON, and opens it where there is a screen to show it on."""
    shown = opened and not as_json and _open(path)
    emit({"report": str(path), **facts, "opened": shown}, as_json,
         lambda console: console.print(str(path), markup=False, soft_wrap=True))


def _open(path: Path) -> bool:
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        return webbrowser.open(path.as_uri())
    except webbrowser.Error:
        return False
