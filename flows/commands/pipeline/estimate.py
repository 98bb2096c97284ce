"""`fewstep estimate`: what a run would take of memory and disk, and what would make it fit."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.console import Console
from rich.text import Text

from fewstep.training.memory import RoundMemory
from fewstep.util.errors import SettingsError
from flows.commands.pipeline.run import Params, Sets, given_settings
from flows.output import count, emit, examples, grid, say, size
from flows.runs.new_run import preview
from tasks.config.preflight import validate
from tasks.estimate.run_estimate import Device, RunEstimate
from tasks.storage.workspace import Workspace

KINDS = {"weights": "weights", "gradients": "gradients", "moments": "moments", "average": "EMA"}


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
        emit(_plain(found), as_json, lambda console: show(console, found))


def _bytes(text: str) -> int:
    try:
        found = int(TypeAdapter(ByteSize).validate_python(text.replace(" ", "")))
    except ValidationError:
        found = 0
    if found <= 0:
        raise SettingsError(f"--memory {text!r}: expected a size, such as 24GiB or 80GB")
    return found


def _plain(found: RunEstimate) -> dict[str, Any]:
    """The estimate as JSON, with the totals."""
    data = found.model_dump(mode="json") | {"total": found.total, "fits": found.fits}
    for entry, one in zip(data["rounds"], found.rounds, strict=True):
        entry |= {"kinds": one.kinds, "total": one.total}
        if one.shards is not None:
            entry["shards"] |= {"kinds": one.shards.kinds, "total": one.shards.total}
    for entry, one in zip(data["sets"], found.sets, strict=True):
        entry["bytes"] = one.bytes
    return data


def show(out: Console, found: RunEstimate) -> None:
    """Prints the estimate for a person."""
    places = {"gpu": "a GPU", "cpu": "the CPU"} if found.devices == 1 else {
        kind: f"each of {found.devices} {name}" for kind, name in (("gpu", "GPUs"), ("cpu", "CPUs"))}
    say(out, Text(found.recipe, style="bold").append(
        f" with the teacher {found.teacher}, batches of {found.batch}, on {places[found.device]}", style="not bold"))
    for one in found.rounds:
        for kind, held in (("replicate", one), ("shard", one.shards)):
            if held is not None:
                _show_round(out, held, len(found.rounds), found.device, kind if found.devices > 1 else "")
    for one in found.sets:
        say(out, f"on disk: {count(one.count)} {one.what}, {size(one.bytes)} ({size(one.of_each)} each)")
    _show_verdict(out, found)


def _show_round(out: Console, one: RoundMemory, rounds: int, device: Device, kind: str) -> None:
    heading = " ".join(filter(None, (f"round {one.round}" if rounds > 1 else "", kind))) or "role"
    table = grid((heading, False), *((name, True) for name in (*KINDS.values(), "together")))
    for role in one.roles:
        parts = (role.weights, role.gradients if role.role == one.turn else 0, role.moments, role.average)
        table.add_row(Text(role.role, style="cyan"), *(size(part) if part else "–" for part in parts),
                      size(sum(parts)))
    for name, value in (("activations", one.activations), ("other", one.other)):
        table.add_row(name, *("" for _ in KINDS), size(value))
    if one.apart:
        table.add_row("on the CPU" if device == "gpu" else "apart", *("" for _ in KINDS), size(one.apart), style="dim")
    table.add_row("together", *(size(one.kinds[kind]) for kind in KINDS), size(one.total), style="bold")
    out.print()
    out.print(table)
    say(out, f"checkpoints are written from a copy in the host's memory, {size(one.checkpoint)}, where that is free")


def _show_verdict(out: Console, found: RunEstimate) -> None:
    out.print()
    if found.limit is None:
        where = f" on each, with compute.parallel: {found.parallel}" if found.devices > 1 else ""
        say(out, f"the run takes {size(found.total)}{where}")
        return
    if found.total <= found.limit:
        say(out, f"fits: {size(found.total)} of {size(found.limit)}", "green")
        return
    say(out, f"does not fit as it is: {size(found.total)}, and the device has {size(found.limit)}", "yellow")
    for number, one in enumerate(found.savings):
        say(out, f"  {size(one.total)} with {'also ' if number else ''}--set {' --set '.join(one.sets)}")
    if not found.fits:
        say(out, "no other setting is known to save memory: take a recipe that trains adapters (such as lcm-lora), "
                 "smaller samples (encode.height, encode.width, encode.num_frames), or a larger device")
