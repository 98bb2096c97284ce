"""`fewstep accept`: results whose code has changed are kept where both codes make the same bits."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from flows.output import console, emit, examples, say
from tasks.config import params_file
from tasks.engine.accept import accept as accept_outputs
from tasks.engine.accept import acceptable
from tasks.engine.plan import plan
from tasks.registry.audit_log import author
from tasks.storage.locks import workspace_lock
from tasks.storage.workspace import Workspace

Stages = Annotated[list[str] | None, typer.Argument(help="Stages whose outputs are kept; all that can be if left out.")]


def add(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @app.command(epilog=examples("fewstep accept --why 'the denoiser was refactored'",
                                 "fewstep accept teacher trajectories --why 'renamed a variable'",
                                 "fewstep accept distill --unchecked --why 'another message only'"))
    def accept(
        stages: Stages = None,
        why: str = typer.Option(..., "--why", metavar="TEXT", help="The reason, which stays with the results."),
        unchecked: bool = typer.Option(False, "--unchecked", help="Do not compare the two codes first."),
        as_json: bool = typer.Option(False, "--json", help="Print the result as JSON; progress goes to stderr."),
    ) -> None:
        """Keep results whose code has changed, where the change makes the same bits.

        A short run of the stage by the code that made the result is compared, bit for bit, with one by the code as it
        is now. What was accepted, by whom, why and how it was compared stands in the manifest and in the lineage.
        Exit code 3 when the bits differ, 4 when the old code is not to be had.
        """
        workspace, out = Workspace.find(), console(stderr=as_json)
        settings = params_file.load(workspace.params)
        with workspace_lock(workspace, "fewstep accept"):
            result = accept_outputs(workspace, settings, stages or None, why=why, who=author(), check=not unchecked,
                                    say=lambda line: say(out, line))  # fmt: skip
            left = acceptable(plan(workspace, settings))
        for error in result.refused.values():
            raise error
        emit({"accepted": result.stages, "acceptable": left}, as_json, lambda out: _show(out, result.stages, left))


def _show(out: Console, accepted: list[str], left: list[str]) -> None:
    if not accepted:
        out.print("nothing to accept: no output differs in its code alone")
    if left:
        out.print(f"still stale for their code alone: {', '.join(left)}", markup=False)
