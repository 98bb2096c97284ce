"""`fewstep estimate`: what a run would take of memory and disk, and what would make it fit."""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError

from fewstep.util.errors import SettingsError
from flows.commands.pipeline.run import Params, Sets, given_settings
from flows.output import emit, examples
from flows.runs.estimate_view import show
from flows.runs.new_run import preview
from tasks.config.preflight import validate
from tasks.estimate.run_estimate import Device
from tasks.storage.workspace import Workspace

Where = Annotated[Device | None, typer.Option(
    help="Where the run is thought to be; by default a GPU where there is one or --memory is given.")]


def add(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @app.command(epilog=examples("fewstep estimate", "fewstep estimate --memory 24GiB --set distill.recipe=lcm-lora",
                                 "fewstep estimate --params sdxl-dmd2 --memory 80GiB --json",
                                 "fewstep estimate --devices 8 --set distill.parts=8 --set compute.parallel=shard"))
    def estimate(
        sets: Sets = None,
        params: Params = None,
        memory: str | None = typer.Option(None, "--memory", metavar="SIZE", help="Of the device, such as 24GiB: what "
                                          "would make the run fit is told."),
        device: Where = None,
        devices: Annotated[int, typer.Option(min=1, help="That share the run, each with all networks or with rows of "
                                             "them (compute.parallel); bytes are those of each.")] = 1,
        as_json: bool = typer.Option(False, "--json", help="Print JSON."),
    ) -> None:
        """Tell what a run would take: bytes on the device by role and kind, and of its sets on disk. Writes nothing.

        Each round of the recipe is set up, and takes a step, on tensors that have shapes and no values. What libraries
        take for themselves (a context, workspaces of kernels, fragments) comes on top.
        """
        limit = None if memory is None else _bytes(memory)
        workspace = Workspace.find()
        settings, _ = preview(workspace, sets or [], given_settings(params))
        validate(workspace.root, settings)
        import torch  # seconds: after what can be refused without it

        from tasks.estimate.estimate import estimate as estimated  # loads torch

        chosen: Device = device or ("gpu" if limit is not None or torch.cuda.is_available() else "cpu")
        found = estimated(workspace.root, settings, chosen, limit, devices)
        emit(found.plain(), as_json, lambda console: show(console, found))


def _bytes(text: str) -> int:
    try:
        found = int(TypeAdapter(ByteSize).validate_python(text.replace(" ", "")))
    except ValidationError:
        found = 0
    if found <= 0:
        raise SettingsError(f"--memory {text!r}: expected a size, such as 24GiB or 80GB")
    return found
