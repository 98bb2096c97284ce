"""What a run would take of memory and disk, for a person: whole, or in a few lines."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from fewstep.training.memory import RoundMemory
from flows.output import count, grid, say, size
from tasks.estimate.run_estimate import Device, RunEstimate

KINDS = {"weights": "weights", "gradients": "gradients", "moments": "moments", "average": "EMA"}


def show(out: Console, found: RunEstimate) -> None:
    """Prints the estimate for a person."""
    say(out, Text(found.recipe, style="bold").append(
        f" with the teacher {found.teacher}, batches of {found.batch}, on {_places(found)}", style="not bold"))
    for one in found.rounds:
        for kind, held in (("replicate", one), ("shard", one.shards)):
            if held is not None:
                _show_round(out, held, len(found.rounds), found.device, kind if found.devices > 1 else "")
    _show_sets(out, found)
    out.print()
    show_verdict(out, found)


def show_in_short(out: Console, found: RunEstimate) -> None:
    """Prints the round that takes most, by role, the sets on disk, and whether the run fits."""
    held = found.largest.shards if found.parallel == "shard" and found.largest.shards else found.largest
    kinds = held.kinds
    roles = [(one.role, one.total - (0 if one.role == held.turn else one.gradients)) for one in held.roles]
    parts = [*roles, ("activations", kinds["activations"]), ("other", kinds["other"])]
    told = ", ".join(f"{name} {size(taken)}" for name, taken in parts if taken)
    apart = f"; {size(held.apart)} beside it on the CPU" if held.apart else ""
    say(out, f"memory of {found.recipe} on {_places(found)}: {told}; together {size(held.total)}{apart}")
    _show_sets(out, found)
    show_verdict(out, found)
    say(out, "`fewstep estimate` tells weights, gradients, moments and EMA apart, round by round")


def _show_sets(out: Console, found: RunEstimate) -> None:
    for one in found.sets:
        say(out, f"on disk: {count(one.count)} {one.what}, {size(one.bytes)} ({size(one.of_each)} each)")


def _places(found: RunEstimate) -> str:
    if found.devices == 1:
        return {"gpu": "a GPU", "cpu": "the CPU"}[found.device]
    return f"each of {found.devices} {'GPUs' if found.device == 'gpu' else 'CPUs'}"


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


def show_verdict(out: Console, found: RunEstimate) -> None:
    """Prints whether the run fits the device, and what would make it fit."""
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
