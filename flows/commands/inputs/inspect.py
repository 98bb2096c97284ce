"""`fewstep inspect`: what a saved pipeline is, before anything is computed with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fewstep.util.config import parse
from fewstep.util.errors import SettingsError
from fewstep.util.plain_data import NotPlain, from_yaml
from flows.output import count, emit, examples, grid, parameters, size
from tasks.config.schema import Encode
from tasks.data.teacher_facts import RecordedFacts, TeacherSummary, TensorSummary
from tasks.data.teacher_summary import summarise

GUIDANCE = {"joint": "both branches in one call", "sequential": "a call for each branch"}
Arguments = Annotated[list[str] | None, typer.Option(
    "--argument", metavar="NAME=VALUE",
    help="A further one of the pipeline's call, as in encode.arguments; may be given several times.")]
FOLDER = typer.Argument(help="A pipeline of diffusers, saved with save_pretrained.")
SAMPLES = {2: "sound", 3: "images", 4: "videos"}


def add(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @app.command("inspect", epilog=examples("fewstep inspect ~/models/sdxl --height 1024 --width 1024",
                                            "fewstep inspect ~/models/wan --frames 33 --json",
                                            "fewstep inspect ~/models/flux --quick"))
    def inspect(folder: Path = FOLDER,
                height: int = typer.Option(None, "--height", help="Of a sample, as encode.height."),
                width: int = typer.Option(None, "--width", help="Of a sample, as encode.width."),
                frames: int = typer.Option(None, "--frames", help="Of a video, as encode.num_frames."),
                tokens: int = typer.Option(None, "--tokens", help="Of a text, as encode.max_sequence_length."),
                argument: Arguments = None,
                variant: str = typer.Option(None, "--variant", help="Of the weights, as teacher.variant."),
                rank: int = typer.Option(None, "--rank", min=1, help="Of the LoRA adapters that are counted."),
                quick: bool = typer.Option(False, "--quick", help="Read the files' headers only; load nothing."),
                as_json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
        """Tell what a saved pipeline is: parts, states, conditions, recipes that it can serve, memory of a run.

        Encoders and autoencoder are loaded, the denoiser is not. One state is decoded. With --quick nothing is loaded.
        """
        named = {"height": height, "width": width, "num_frames": frames, "max_sequence_length": tokens}
        encode = parse(Encode, named | {"arguments": _arguments(argument or [])}, "fewstep inspect")
        summary = summarise(folder, encode, variant, rank, quick)
        emit(_plain(summary), as_json, lambda console: show(console, summary))


def _arguments(given: list[str]) -> dict[str, Any]:
    """Values by name of `NAME=VALUE`, read as YAML."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise SettingsError(f"--argument {text!r}: expected NAME=VALUE, such as use_resolution_binning=false")
        try:
            found[name.strip()] = from_yaml(value)
        except NotPlain as error:
            raise SettingsError(f"--argument {text!r}: the value is not readable as YAML: {error}") from None
    return found


def _plain(summary: TeacherSummary) -> dict[str, Any]:
    """The summary as JSON, with the totals."""
    data = summary.model_dump(mode="json")
    if summary.recorded is not None:
        for entry, role in zip(data["recorded"]["memory"], summary.recorded.memory, strict=True):
            entry["total"] = role.total
    return data


def show(out: Console, summary: TeacherSummary) -> None:
    """Prints the summary for a person."""
    out.print(Text(summary.pipeline, style="bold"), Text(f"in {summary.folder}"), soft_wrap=not out.is_terminal)
    facts = summary.recorded
    _print_facts(out, {
        "denoiser": f"{summary.part}, {summary.network}, {parameters(summary.parameters)} parameters",
        "scheduler": summary.scheduler,
        "process": summary.process + (f", shift {facts.shift:.4g}" if facts and facts.shift is not None else ""),
        "prediction": summary.prediction,
        "conditions": _conditions(summary),
        **(_recorded(facts) if facts else {}),
    })
    _print_parts(out, summary)
    if facts is None:
        out.print("\nOnly headers were read; without [dim]--quick[/] states, conditions, recipes and memory are told.")
        return
    if facts.fields:
        _print_fields(out, facts.fields)
    _print_recipes(out, facts)
    _print_memory(out, facts)


def _conditions(summary: TeacherSummary) -> str:
    kind = "texts" if summary.textual else f"{count(summary.classes)} classes" if summary.classes else "none"
    if summary.recorded and summary.recorded.images:
        kind += f" with {' and '.join(summary.recorded.images)}"
    return kind + (", and a null condition" if summary.recorded and summary.recorded.null else "")


def _recorded(facts: RecordedFacts) -> dict[str, str]:
    state = facts.state
    told = {
        "state": f"{_shape(state.shape)}, {size(state.float32)} in float32, {size(state.bfloat16)} in bfloat16",
        "samples": f"{SAMPLES.get(len(facts.sample), 'tensors')} {_shape(facts.sample)}",
    }
    told["guidance"] = "none" if facts.guidance is None else GUIDANCE[facts.guidance]
    if facts.embedded is not None:
        told["guidance"] += f"; the network takes a scale as an input, {facts.embedded:g} by default"
    if facts.arguments:
        told["called with"] = ", ".join(f"{name}={value}" for name, value in facts.arguments.items())
    return told


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def _print_facts(out: Console, told: dict[str, str]) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in told.items():
        table.add_row(name, Text(value))
    out.print(table)


def _print_parts(out: Console, summary: TeacherSummary) -> None:
    table = grid(("part", False), ("class", False), ("parameters", True), ("on disk", True))
    for part in summary.parts:
        table.add_row(Text(part.name, style="cyan"), Text(part.kind), parameters(part.parameters), size(part.bytes))
    out.print()
    out.print(table)


def _print_fields(out: Console, fields: tuple[TensorSummary, ...]) -> None:
    table = grid(("of one prompt", False), ("shape", True), ("dtype", False), ("float32", True), ("bfloat16", True))
    for one in fields:
        table.add_row(Text(one.name, style="cyan"), _shape(one.shape), one.dtype, size(one.float32), size(one.bfloat16))
    if len(fields) > 1:
        single, half = sum(one.float32 for one in fields), sum(one.bfloat16 for one in fields)
        table.add_row("together", "", "", size(single), size(half), style="bold")
    out.print()
    out.print(table)


def _print_recipes(out: Console, facts: RecordedFacts) -> None:
    fit, refused = len(facts.recipes), facts.refused
    out.print(f"\n{fit} of {fit + len(refused)} recipes can be run with it" + (", but not:" if refused else "."))
    _print_facts(out, {f"  {one.name}": one.reason for one in refused})


def _print_memory(out: Console, facts: RecordedFacts) -> None:
    table = grid(("float32", False), *((name, True) for name in ("weights", "gradients", "moments", "EMA", "total")))
    for role in facts.memory:
        parts = (role.weights, role.gradients, role.moments, role.average)
        table.add_row(Text(role.role, style="cyan"), *(size(part) if part else "–" for part in parts), size(role.total))
    out.print(f"\nMemory of a run's networks; LoRA of rank {facts.rank} has {parameters(facts.adapters)} parameters. "
              "A run holds the teacher, a student, and a fake score where the recipe trains one; "
              "activations, heads and further copies come on top.")
    out.print(table)
