"""Which stage's images the later ones compare with: the reference stage's where it drew some, else the real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep.util.checked_json import read_checked, write_checked
from tasks.stages.base import Context

FORMAT = "fewstep-reference/1"
DESCRIPTION = "reference.json"


def write_choice(folder: Path, *, drawn: bool) -> None:
    """Written by the reference stage into its output: whether it drew the images that are compared with."""
    write_checked(folder / DESCRIPTION, FORMAT, {"drawn": drawn})


def is_drawn(folder: Path) -> bool:
    """Whether the reference stage's output holds images. Raises CorruptData for a damaged one."""
    return bool(read_checked(folder / DESCRIPTION, FORMAT)["drawn"])


def reference_stage(context: Context[Any]) -> str:
    """The input, `reference` or `shard`, whose images a stage compares with or fits features to."""
    return "reference" if is_drawn(context.inputs["reference"]) else "shard"


def reference_images(context: Context[Any]) -> Path:
    """The folder of these images."""
    return context.inputs[reference_stage(context)]
