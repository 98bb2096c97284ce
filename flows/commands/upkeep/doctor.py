"""`fewstep doctor`: checks the machine and the checkout."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.doctor.examine import examine
from flows.doctor.finding import Finding
from flows.output import emit, examples
from tasks.storage.workspace import Workspace

MARKS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "error": "[red]✗[/]"}


def add(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @app.command(epilog=examples("fewstep doctor", "fewstep doctor --json"))
    def doctor(as_json: bool = typer.Option(False, "--json", help="Print the findings as JSON.")) -> None:
        """Check versions, folders, servers, disk, device, git and DVC, and say how to mend what is wrong."""
        findings = examine(Workspace.find())
        emit([asdict(item) for item in findings], as_json, lambda out: _show(findings, out))
        if any(item.level == "error" for item in findings):
            raise typer.Exit(1)


def _show(findings: list[Finding], out: Console) -> None:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=1)
    table.add_column(width=12, no_wrap=True)
    table.add_column(overflow="fold")
    for item in findings:
        text = Text(item.text)
        if item.mend:
            text.append(f"\n→ {item.mend}", style="cyan")
        table.add_row(MARKS[item.level], item.topic, text)
    out.print(table)
