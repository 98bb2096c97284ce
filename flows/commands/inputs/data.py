"""`fewstep data add`: own images, with classes or captions, and own prompts into data/raw under DVC."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from flows.output import emit, examples
from tasks.data.image_folder import shown
from tasks.data.import_images import import_images
from tasks.storage.workspace import Workspace

_LABELS = 20  # shown of all
PATH = typer.Argument(help="A folder of CLASS/NAME.png; or a CSV or JSON-lines table with the columns name and caption "
                           "or class, names relative to the table; or the folder with such a table (metadata.csv); or "
                           "a file of prompts: a .txt with one a line, or a table with the column prompt and perhaps "
                           "negative, group, size, image.")
REPLACE = typer.Option(False, "--replace", help="Forget what is in data/raw now.")
JSON = typer.Option(False, "--json", help="Print JSON.")


def add(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    data = typer.Typer(help="Own images and prompts for the pipeline.", rich_markup_mode="rich", no_args_is_help=True)

    @data.callback()
    def group() -> None:
        """Own images and prompts for the pipeline."""

    @data.command("add", epilog=examples("fewstep data add ~/flowers", "fewstep data add ~/flowers/captions.csv",
                                         "fewstep data add prompts.txt", "fewstep data add ~/flowers --replace"))
    def add_images(
        path: Path = PATH, replace: bool = REPLACE, as_json: bool = JSON
    ) -> None:
        """Copy images and prompts into data/raw and put them under DVC's control.

        What is there stays, unless --replace is given. Nothing is changed if anything is wrong.
        """
        result = import_images(Workspace.find(), path, replace=replace)
        emit(result, as_json, lambda console: _print(console, result))

    app.add_typer(data, name="data")


def _print(console: Console, result: dict) -> None:
    kinds = [f"{result['images']} images"] if result["images"] or not result["prompts"] else []
    if result["classes"]:
        kinds.append(f"{len(result['classes'])} classes")
    if result["captions"]:
        kinds.append(f"{result['captions']} captions")
    if result["prompts"]:
        kinds.append(f"{result['prompts']} prompts")
    console.print(f"data/raw holds {', '.join(kinds)}; DVC's record of them is data/raw.dvc", markup=False)
    if result["left_out"]:
        console.print(result["left_out"], markup=False)
    if result["classes"]:
        labels = [f"{label} = {shown(name)}" for label, name in enumerate(result["classes"][:_LABELS])]
        more = ", …" if len(result["classes"]) > _LABELS else ""
        console.print(f"labels: {', '.join(labels)}{more}", markup=False)
    if result["source"] != "raw":
        console.print("  → [dim]$[/] fewstep run --set data.source=raw     [dim]to use them[/]")
