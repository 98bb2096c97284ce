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

from fewstep.conformance.cell_code import JUDGING, TRAINING, code_digest, modules_of
from fewstep.conformance.problems import Problem
from fewstep.recipes import load_recipe
from fewstep.recipes.recipe import DESCRIBES
from fewstep.util.content_cache import ContentCache
from fewstep.util.errors import FewstepError
from fewstep.util.files import write_atomically

FOLDER = Path(".fewstep/conformance")
IMAGES = 200_000
TRACED_IMAGES, TRACED_SAMPLES = 4096, 256


@dataclass(frozen=True)
class Cell:
    """A recipe (by name or path) on a problem."""

    recipe: str
    problem: Problem
    seed: int = 0
    images: int = IMAGES

    @property
    def key(self) -> str:
        """SHA-256 over the settings, where they differ from the defaults.

        With the code, the defaults among it, that is all but the machine.
        """
        recipe = load_recipe(self.recipe).model_dump(mode="json", exclude_defaults=True, exclude=DESCRIBES)
        asked = {"problem": asdict(self.problem), "seed": self.seed, "images": self.images}
        return _digest({**asked, "recipe": recipe})

    @property
    def code(self) -> str:
        """SHA-256 over the code that trains the recipe and judges its student."""
        return code_digest(*TRAINING, *JUDGING, *modules_of(load_recipe(self.recipe)))

    def trace(self) -> str:
        """SHA-256 over the weights of a short run (all its rounds, turns and schedules, some seconds) and how they are
        judged by few samples.

        Code of the same trace trains and judges the same, as far as so many steps and samples show: figures survive an
        edit by which no bit changed.
        """
        import torch  # loads torch

        from fewstep.conformance.targets import target_of  # loads diffusers
        from fewstep.conformance.verdict import judge, null_quantile
        from fewstep.training import distill
        from fewstep.training.digests import tensor_digest

        torch.set_num_threads(1)
        recipe, teacher = load_recipe(self.recipe), self.problem.teacher()
        student = distill(recipe, teacher, images=TRACED_IMAGES, seed=self.seed, device="cpu")
        target = target_of(recipe, teacher, student.sampler)
        null = null_quantile(target, TRACED_SAMPLES, simulations=4)
        verdict = judge(target, student, null, {}, self.seed, TRACED_SAMPLES)
        return _digest([tensor_digest(student.denoiser.state_dict()), verdict])

    def path(self, folder: Path) -> Path:
        """Where its figures stand, of whatever key."""
        name = "-".join([Path(self.recipe).stem, *self.problem.name.replace(",", "").split(), f"seed{self.seed}"])
        return Path(folder) / (name + ("" if self.images == IMAGES else f"-{self.images}") + ".json")

    def figures(self, folder: Path) -> dict | None:
        """What was recorded of this cell under its present key and code; None if it must be looked at."""
        found = self.recorded(folder)
        return found if found is not None and found.get("code") == self.code else None

    def retraced(self, folder: Path) -> dict | None:
        """What was recorded under its present key by other code of the same trace, from now on under this code."""
        found = self.recorded(folder)
        if found is None or "trace" not in found or found["trace"] != self.trace():
            return None
        found["code"] = self.code
        _write(self.path(folder), found)
        return found

    def recorded(self, folder: Path) -> dict | None:
        """What was recorded of this cell under its present key, by whatever code."""
        try:
            found = json.loads(self.path(folder).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if found.get("key") == self.key else None


def make(cell: Cell, folder: Path = FOLDER) -> dict:
    """Train, judge and record one cell, on one thread. What goes wrong is recorded as what it missed."""
    import torch  # loads torch

    from fewstep.training import distill  # loads transformers

    torch.set_num_threads(1)
    key, code, begun = cell.key, cell.code, time.monotonic()
    recipe = load_recipe(cell.recipe)
    teacher = cell.problem.teacher()
    try:
        student = distill(recipe, teacher, images=cell.images, seed=cell.seed, device="cpu")
        seconds = time.monotonic() - begun
        verdict = {"trace": cell.trace(), **_judged(cell, recipe, teacher, student, folder)}
    except FewstepError as error:
        seconds, verdict = time.monotonic() - begun, {"missed": [str(error)]}
    except Exception as error:  # a recipe that breaks is a line of the table, not the end of the suite
        traceback.print_exc()
        seconds, verdict = time.monotonic() - begun, {"missed": [f"{type(error).__name__}: {error}"]}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    record = {
        "key": key,
        "code": code,
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
    """The figures of every cell, those that are missing or of other settings or code made by `workers` processes.

    A cell that is made has a process of its own, which its peak memory is that of; those that other code made are
    looked at first.
    """
    folder, missing, edited = Path(folder), [], []
    for cell in cells:
        found = cell.figures(folder)
        if found is None:
            (missing if cell.recorded(folder) is None else edited).append(cell)
        else:
            yield found
    context = multiprocessing.get_context("spawn")
    if edited:
        with context.Pool(min(workers, len(edited))) as pool:  # whose processes fit each problem's stand-in once
            for cell, found in zip(edited, pool.imap(_Retrace(folder), edited, chunksize=1), strict=True):
                if found is None:
                    missing.append(cell)
                else:
                    yield found
    if missing:
        with context.Pool(min(workers, len(missing)), maxtasksperchild=1) as pool:
            yield from pool.imap_unordered(_Make(folder), missing, chunksize=1)


@dataclass(frozen=True)
class _Retrace:
    folder: Path

    def __call__(self, cell: Cell) -> dict | None:
        try:
            return cell.retraced(self.folder)
        except Exception:  # what breaks a short run breaks the whole one, which says so
            return None


@dataclass(frozen=True)
class _Make:
    folder: Path

    def __call__(self, cell: Cell) -> dict:
        return make(cell, self.folder)


def _judged(cell, recipe, teacher, student, folder: Path) -> dict:
    """The verdict, with the null and the solvers' distances of earlier cells of the same target."""
    from fewstep.conformance.targets import target_of  # loads diffusers
    from fewstep.conformance.verdict import judge, null_quantile

    target = target_of(recipe, teacher, student.sampler)
    cache = ContentCache(Path(folder) / "references")
    key = [asdict(cell.problem), cell.seed, target.describe(), code_digest(*JUDGING)]
    known = cache.get(key) or {"null": null_quantile(target), "solvers": {}}
    solvers = {int(count): tuple(best) for count, best in known["solvers"].items()}
    verdict = judge(target, student, known["null"], solvers, cell.seed)
    cache.put(key, {"null": known["null"], "solvers": solvers})
    return verdict


def _digest(parts) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _write(path: Path, record: dict) -> None:
    write_atomically(path, json.dumps(record, indent=1) + "\n")
