"""`fewstep backup` and `fewstep restore`: a project into a folder, and from it into an empty project."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from flows.output import count, emit, examples, say
from tasks.backup.contents import Backup
from tasks.engine.cleanup import used_keys
from tasks.storage.locks import workspace_lock
from tasks.storage.workspace import Workspace

FOLDER = typer.Argument(metavar="DIR", help="Folder of the backup.")
JSON = typer.Option(False, "--json", help="Print what is in it as JSON.")


def add(app: typer.Typer) -> None:
    """Adds the commands to `app`."""

    @app.command("backup", epilog=examples("fewstep backup /mnt/backups/monday"))
    def backup(folder: Path = FOLDER, as_json: bool = JSON) -> None:
        """Copy registry, record, runs, the databases of MLflow and Prefect and git's history into a new folder, with
        the data that versions and runs need: what lies on this disk alone is copied, what an object store has listed.
        """
        from tasks.backup.backup import back_up  # DVC

        workspace = Workspace.find()
        made = back_up(workspace, folder.absolute(), used_keys(workspace))
        emit(made.model_dump(mode="json"), as_json, lambda out: _show(made, f"{folder} holds", out))

    @app.command("restore", epilog=examples("fewstep restore /mnt/backups/monday"))
    def restore(folder: Path = FOLDER, as_json: bool = JSON) -> None:
        """Put a backup into a project in which nothing was run, every byte of it verified before."""
        from tasks.backup.restore import restore as put_back  # DVC

        workspace = Workspace.find()
        with workspace_lock(workspace, "restore"):
            said = put_back(workspace, folder.absolute())
        emit(said.model_dump(mode="json"), as_json, lambda out: _show(said, "restored:", out))


def _show(backup: Backup, verb: str, out: Console) -> None:
    size = sum(file.bytes for file in backup.files)
    names = " and ".join({"mlflow": "MLflow", "prefect": "Prefect"}[name] for name in backup.databases) or "no server"
    say(out, f"{verb} {count(len(backup.files))} files of {count(size)} bytes, the databases of {names}; "
             f"{count(len(backup.needed))} objects are needed, on DVC's remote {backup.remote or 'which there is not'}")
    if backup.absent:
        say(out, f"{count(len(backup.absent))} of them could not be found: backup.json names them (`absent`)",
            style="yellow")
