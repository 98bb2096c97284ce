"""`fewstep init`: a workspace of one's own."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from flows.output import emit, examples, say
from tasks.storage.new_workspace import NewWorkspace, make

FOLDER = typer.Argument(metavar="DIR", help="A new folder, or an empty one.")
FROM = typer.Option(None, "--from", metavar="NAME", help="Begin with the settings of an example (sdxl-dmd2) or of a "
                    "file; default: handwritten digits.")
CACHE = typer.Option(None, metavar="DIR", help="DVC cache to share with other workspaces; default: $FEWSTEP_CACHE, or "
                     "~/.cache/fewstep/dvc.")


def add(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @app.command(epilog=examples("fewstep init ~/experiments/digits",
                                 "fewstep init ~/experiments/sdxl --from sdxl-dmd2",
                                 "fewstep init ~/experiments/again --from ~/old/params.yaml --cache /data/dvc-cache"))
    def init(
        folder: Path = FOLDER, settings: str | None = FROM, cache: Path | None = CACHE,
        as_json: bool = typer.Option(False, "--json", help="Print it as JSON."),
    ) -> None:
        """Make a workspace: settings, dvc.yaml, git and DVC in a folder of their own, apart from the code."""
        made = make(folder, settings, cache)
        data = {"workspace": str(made.workspace.root), "settings": str(made.settings_from), "commit": made.commit,
                "code": {"folder": str(made.workspace.code), **made.code.model_dump()}, "cache": str(made.cache),
                "others": made.sharing}
        emit(data, as_json, lambda out: _show(made, out))


def _show(made: NewWorkspace, out: Console) -> None:
    say(out, f"{made.workspace.root} is a workspace, with the settings of {made.settings_from.name}")
    say(out, f"code: {made.workspace.code}, {made.code.told()}", style="dim")
    shared = f", shared with {made.sharing} other workspace{'s' * (made.sharing > 1)}" if made.sharing else ""
    say(out, f"DVC cache: {made.cache}{shared}", style="dim")
    say(out, f"next: cd {made.workspace.root} && fewstep run --dry-run")
