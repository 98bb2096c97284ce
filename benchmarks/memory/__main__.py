"""`make memory`: what distilling known networks takes on a GPU; the table is committed as docs/memory.md.

    python -m benchmarks.memory --keep memory.jsonl     # continues from what is in the file
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.memory.largest_round import KINDS, largest_round
from benchmarks.memory.models import Model, models
from fewstep.recipes import Overrides, load_recipe
from fewstep.training.rehearsal.rounds import Machine
from fewstep.util.errors import SettingsError
from fewstep.util.files import write_atomically

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "memory.md"
TOLD = ("sdxl", "sd3", "flux", "wan")
"""Models of the table; the others serve the tests of examples/."""
RECIPES = ("dmd2", "lcm-lora", "tdm")
SETTINGS = {
    "as the recipe is": (Machine(gpu=True), Overrides()),
    "saving": (Machine(gpu=True, gradient_checkpointing=True, averages_apart=True), Overrides(frozen="bfloat16")),
}
"""What a cell is measured with, by name."""
HEAD = """# Memory of a run on one device

What `fewstep estimate` tells of networks that people have, in GB (10⁹ bytes) on a GPU, computing in bfloat16.
`make memory` (benchmarks/memory) takes the configurations in benchmarks/memory/models.yaml, no weights, and steps each
recipe in the turn of each of its roles on tensors that have shapes and no values. Where a network repeats a block it is
measured with one and with two of them, and told for all. What a process takes beside its tensors (a context,
workspaces, fragments) comes on top.

*saving* is `distill.gradient_checkpointing: true` and `distill.ema_device: cpu`, which change no bit of a student
(where a recipe takes forward derivatives, checkpointing does by rounding), and `distill.frozen: bfloat16`, which rounds
the weights that rest: the teacher's, and those below adapters. *on the CPU* is what then lies in the memory of the
host: averages, and the weights as they were. Beyond that, `distill.accumulate: 2` halves the samples that are in the
network at a time, and `distill.guided_calls: sequential` those of a guided teacher.

| network, samples a step | recipe | settings | weights | gradients | moments | EMA | activations | all | on the CPU |
|---|---|---|--:|--:|--:|--:|--:|--:|--:|
"""


def cell(model: Model, recipe: str, settings: str) -> dict[str, float] | str:
    """Bytes by kind, in all and apart, of the round that takes most; or why the network cannot serve the recipe."""
    machine, overrides = SETTINGS[settings]
    chosen = load_recipe(recipe).override(
        overrides.model_copy(update={"batch": model.batch, "accumulate": 1, "precision": "bfloat16"}))
    try:
        return largest_round(model, chosen, machine)
    except SettingsError as error:
        return str(error)


def row(model: Model, recipe: str, settings: str, found: dict[str, float] | str) -> str:
    """A line of the table."""
    first = f"| {model.name}, {model.batch} | {recipe} | {settings} |"
    if isinstance(found, str):
        return f"{first} {found} |" + " |" * 6
    figures = [*(found[kind] for kind in KINDS[:5]), sum(found[kind] for kind in KINDS), found["apart"]]
    return f"{first} {' | '.join(f'{figure / 1e9:.1f}' if figure else '–' for figure in figures)} |"


def main(arguments: list[str] | None = None) -> None:
    """Measures all cells and writes the document; those in the file of `--keep` are not measured again."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", type=Path, help="JSON lines of measured cells, to continue from")
    keep = parser.parse_args(arguments).keep
    lines = keep.read_text().splitlines() if keep and keep.is_file() else []
    cells = {tuple(entry[:3]): entry[3] for entry in map(json.loads, lines)}
    known = {name: models()[name] for name in TOLD}
    wanted = [(name, recipe, settings) for settings in reversed(SETTINGS) for name in known for recipe in RECIPES]
    for place in wanted:
        if place not in cells:
            cells[place] = cell(known[place[0]], *place[1:])
            print(row(known[place[0]], *place[1:], cells[place]), flush=True)
            if keep:
                with keep.open("a") as file:
                    file.write(json.dumps([*place, cells[place]]) + "\n")
    rows = [row(known[name], recipe, settings, cells[name, recipe, settings])
            for name in known for recipe in RECIPES for settings in SETTINGS]  # fmt: skip
    sources = [f"* {model.name}: {model.source}" for model in known.values()]
    write_atomically(DOCUMENT, HEAD + "\n".join(rows) + "\n\nConfigurations:\n\n" + "\n".join(sources) + "\n")


if __name__ == "__main__":
    main()
