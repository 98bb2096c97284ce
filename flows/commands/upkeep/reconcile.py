"""`fewstep reconcile`: sets right what a lost machine left behind."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.console import Console

from fewstep.util.errors import NotAvailable
from flows.output import emit, examples, say
from flows.runs import reconcile as reconciling
from tasks.config import schema as params_file
from tasks.storage.workspace import Workspace


def add(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @app.command(epilog=examples("fewstep reconcile", "fewstep reconcile --json"))
    def reconcile(as_json: bool = typer.Option(False, "--json", help="Print what was done as JSON.")) -> None:
        """Make Prefect, MLflow, run records and temporary files say what is true after a crash; harmless to repeat."""
        workspace = Workspace.find()
        report = reconciling.reconcile(workspace, params_file.load(workspace.params).profile)
        data = asdict(report) | {"changed": report.changed}
        emit(data, as_json, lambda out: _show(data, out))
        if report.skipped:
            raise typer.Exit(NotAvailable.exit_code)


def _show(data: dict, out: Console) -> None:
    titles = {"records": "runs", "prefect": "Prefect", "mlflow": "MLflow", "files": "files", "worktrees": "worktrees"}
    for name, title in titles.items():
        for line in data[name]:
            say(out, f"{title}: {line}")
    for line in data["skipped"]:
        say(out, f"not looked at: {line}", style="yellow")
    if not data["changed"] and not data["skipped"]:
        out.print("nothing to set right")
