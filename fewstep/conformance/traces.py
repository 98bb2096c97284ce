"""Whether code trains every recipe as other code did on this machine, to the bit, as far as a short run shows it.

Figures of a cell take a minute or more, and on another CPU come out otherwise: rounding differs there, and a recipe
near its bar may fall on its other side. A trace takes seconds, and those of two states of the code, made on one
machine, say that an edit changed nothing.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from fewstep.conformance.cells import Cell
from fewstep.util.checked_json import read_checked, write_checked

FORM = "fewstep-conformance-traces-1"
Outcome = Literal["new", "same", "differs"]


def compared(cells: Sequence[Cell], path: Path, workers: int = 1) -> Iterator[tuple[str, Outcome]]:
    """Each cell's name and whether its trace is the one that `path` holds; one that the file lacks is added to it.

    Raises CorruptData for a file that is damaged or holds something else.
    """
    known = read_checked(path, FORM)["traces"] if path.exists() else {}
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(workers, len(cells))) as pool:
        for cell, trace in zip(cells, pool.imap(Cell.trace, cells, chunksize=1), strict=True):
            name = f"{cell.recipe}, {cell.problem.name}, seed {cell.seed}"
            outcome: Outcome = "new" if name not in known else "same" if known[name] == trace else "differs"
            if outcome == "new":
                known[name] = trace
                write_checked(path, FORM, {"traces": known})
            yield name, outcome
