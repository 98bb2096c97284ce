"""`fewstep verify`: every byte of the outputs against its checksum."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.markup import escape

from fewstep.util.errors import DataDiffers
from flows.output import count, emit, examples
from tasks.engine.verify_outputs import false_records, verify_outputs
from tasks.storage.workspace import Workspace


def add(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @app.command("verify", epilog=examples("fewstep verify", "fewstep verify trajectories"))
    def verify(which: str = typer.Argument(None, metavar="[SET]", help="A stage or a folder; all if left out."),
               as_json: bool = typer.Option(False, "--json", help="Print the result as JSON.")) -> None:
        """Read every byte of the finished outputs and compare with the manifests. Exit code 3 if something differs."""
        workspace = Workspace.find()
        results = verify_outputs(workspace, which)
        remarks = [] if which else false_records(workspace)
        bad = [result for result in results if result.problems]

        def show(out: Console) -> None:
            for result in results:
                mark = "[red]differs[/]" if result.problems else "[green]verified[/]"
                out.print(f"{mark}  {result.name}  {count(result.files)} files, {count(result.bytes)} bytes")
                for problem in result.problems:
                    out.print(f"         {problem}", soft_wrap=True, markup=False)
            for text in remarks:
                out.print(f"[yellow]warning[/]  {escape(text)}", soft_wrap=True)
            if not results:
                out.print("no finished output here yet")

        emit({"outputs": [result.to_dict() for result in results], "warnings": remarks}, as_json, show)
        if bad and as_json:
            raise typer.Exit(DataDiffers.exit_code)
        if bad:
            names = ", ".join(result.name for result in bad)
            raise DataDiffers(f"{names}: the bytes differ from the manifest",
                              hint="`fewstep run` puts back or makes anew what does not verify")
