"""`fewstep reconcile`: sets right what a lost machine left behind."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.console import Console

from fewstep.util.errors import NotAvailable
from flows.output import emit, examples, say
from flows.runs.reconcile import Report
from flows.runs.reconcile import reconcile as set_right
from tasks.config import params_file
from tasks.storage.workspace import Workspace


def add(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @app.command(epilog=examples("fewstep reconcile", "fewstep reconcile --json"))
    def reconcile(as_json: bool = typer.Option(False, "--json", help="Print what was done as JSON.")) -> None:
        """Make Prefect, MLflow, run records and temporary files say what is true after a crash; harmless to repeat."""
        workspace = Workspace.find()
        report = set_right(workspace, params_file.load(workspace.params).profile)
        emit(asdict(report) | {"changed": report.changed}, as_json, lambda out: _show(report, out))
        if report.skipped:
            raise typer.Exit(NotAvailable.exit_code)


def _show(report: Report, out: Console) -> None:
    for title, lines in (("runs", report.records), ("Prefect", report.prefect), ("MLflow", report.mlflow),
                         ("files", report.files), ("worktrees", report.worktrees)):
        for line in lines:
            say(out, f"{title}: {line}")
    for line in report.skipped:
        say(out, f"not looked at: {line}", style="yellow")
    if not report.changed and not report.skipped:
        out.print("nothing to set right")
