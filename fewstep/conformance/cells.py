"""One cell: a recipe trained and judged on a problem, its figures in a JSON file that is made again only when stale."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import resource
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fewstep.conformance.code import JUDGING, TRAINING, code_digest, modules_of
from fewstep.conformance.problems import Problem
from fewstep.errors import FewstepError
from fewstep.recipes import load_recipe
from fewstep.records import write_atomically

FOLDER = Path(".fewstep/conformance")
IMAGES = 200_000


@dataclass(frozen=True)
class Cell:
    """A recipe (by name or path) on a problem."""

    recipe: str
    problem: Problem
    seed: int = 0
    images: int = IMAGES

    @property
    def key(self) -> str:
        """SHA-256 over everything that determines the figures but the machine."""
        recipe = load_recipe(self.recipe)
        code = code_digest(*TRAINING, *JUDGING, *modules_of(recipe))
        parts = {**recipe.resolved(), "target": recipe.target, "flow_map": recipe.flow_map, **asdict(self.problem)}
        return _digest({**parts, "seed": self.seed, "images": self.images, "code": code})

    def path(self, folder: Path) -> Path:
        """Where its figures stand, of whatever key."""
        name = "-".join([Path(self.recipe).stem, *self.problem.name.replace(",", "").split(), f"seed{self.seed}"])
        return Path(folder) / (name + ("" if self.images == IMAGES else f"-{self.images}") + ".json")

    def figures(self, folder: Path) -> dict | None:
        """What was recorded of this cell under its present key; None if it must be made."""
        try:
            found = json.loads(self.path(folder).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if found.get("key") == self.key else None


def make(cell: Cell, folder: Path = FOLDER) -> dict:
    """Train, judge and record one cell, on one thread. What goes wrong is recorded as what it missed."""
    import torch

    from fewstep.training import distill

    torch.set_num_threads(1)
    key, begun = cell.key, time.monotonic()
    recipe = load_recipe(cell.recipe)
    teacher = cell.problem.teacher()
    try:
        student = distill(recipe, teacher, images=cell.images, seed=cell.seed, device="cpu")
        seconds = time.monotonic() - begun
        verdict = _judged(cell, recipe, teacher, student, folder)
    except FewstepError as error:
        seconds, verdict = time.monotonic() - begun, {"missed": [str(error)]}
    except Exception as error:  # a recipe that breaks is a line of the table, not the end of the suite
        traceback.print_exc()
        seconds, verdict = time.monotonic() - begun, {"missed": [f"{type(error).__name__}: {error}"]}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    record = {
        "key": key,
        "recipe": recipe.name,
        "problem": cell.problem.name,
        "seed": cell.seed,
        "images": cell.images,
        "target": recipe.target,
        "status": recipe.status,
        **verdict,
        "cost": {"seconds": round(seconds, 1), "memory_mib": round(memory)},
    }
    _write(cell.path(folder), record)
    return record


def make_all(cells: Sequence[Cell], folder: Path = FOLDER, workers: int = 1) -> Iterator[dict]:
    """The figures of every cell, those that are missing or stale made by `workers` processes, as they come.

    Each cell has a process of its own, which its peak memory is that of.
    """
    stale = []
    for cell in cells:
        found = cell.figures(folder)
        if found is None:
            stale.append(cell)
        else:
            yield found
    if stale:
        context = multiprocessing.get_context("spawn")
        with context.Pool(min(workers, len(stale)), maxtasksperchild=1) as pool:
            yield from pool.imap_unordered(_Make(Path(folder)), stale, chunksize=1)


@dataclass(frozen=True)
class _Make:
    folder: Path

    def __call__(self, cell: Cell) -> dict:
        return make(cell, self.folder)


def _judged(cell, recipe, teacher, student, folder: Path) -> dict:
    """The verdict, with the null and the solvers' distances of earlier cells of the same target."""
    from fewstep.conformance.judging import judge, null_quantile
    from fewstep.conformance.targets import target_of

    target = target_of(recipe, teacher, student.sampler)
    key = _digest([asdict(cell.problem), cell.seed, target.describe(), code_digest(*JUDGING)])
    path = Path(folder) / "references" / f"{key[:16]}.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {"null": null_quantile(target), "solvers": {}}
    solvers = {int(count): tuple(best) for count, best in known["solvers"].items()}
    verdict = judge(target, student, known["null"], solvers, cell.seed)
    _write(path, {"null": known["null"], "solvers": solvers})
    return verdict


def _digest(parts) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _write(path: Path, record: dict) -> None:
    write_atomically(path, json.dumps(record, indent=1) + "\n", shared=True)
