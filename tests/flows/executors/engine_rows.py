"""What tests have verified of engines: cells of the table in docs/scale.md, which `engines_table` gathers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from fewstep.util.config import Strict

FILE = "FEWSTEP_ENGINE_ROWS"
"""Environment variable: where cells are appended; without it tests run as ever."""
Engine = Literal["local", "processes", "ray", "pool:NAME", "slurm", "command",
                 "training on nodes, ray", "training on nodes, pool:NAME", "training on nodes, slurm",
                 "training on nodes, command"]  # fmt: skip
What = Literal["same bytes", "lost process", "cut link", "ends", "progress", "no disk"]
_ONE_MACHINE = "threads and processes of the run's machine: between them and the run is no link, and they see its disk"
MEANINGLESS: dict[tuple[Engine, What], str] = {
    (engine, what): _ONE_MACHINE for engine in ("local", "processes") for what in ("cut link", "no disk")}  # fmt: skip
"""What can be asked of no such engine, and why."""


class Cell(Strict):
    """What a test has verified of an engine."""

    test: str
    engine: Engine
    what: What


@pytest.fixture
def verified(request) -> Callable[..., None]:
    """Called by a test with an engine and what it has verified of it."""

    def tell(engine: Engine, *found: What) -> None:
        assert not any((engine, what) in MEANINGLESS for what in found)
        if path := os.environ.get(FILE):
            with open(path, "a", encoding="utf-8") as file:
                file.writelines(Cell(test=request.node.nodeid, engine=engine, what=what).model_dump_json() + "\n"
                                for what in found)  # fmt: skip

    return tell


def read(path: Path) -> list[Cell]:
    """The cells in a file; none where there is no file."""
    return [Cell.model_validate_json(line) for line in path.read_text().splitlines()] if path.exists() else []
