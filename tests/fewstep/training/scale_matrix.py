"""How processes share a training, on the networks of three families: one process, two with all networks each, two with
rows of them.

    python -m tests.fewstep.training.scale_matrix            # writes its part of docs/scale.md
    python -m tests.fewstep.training.scale_matrix --only "shard 2/LoRA/dmd2/sd"     # or all arrangements: LoRA/dmd2/sd
    python -m tests.fewstep.training.scale_matrix --device cuda     # on two GPUs; the page stays as it is

The processes of a cell are forked from this one, which has loaded libraries and teachers and leaves GPUs alone; they
speak gloo, and on GPUs nccl too.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from pathlib import Path

import diffusers
import torch
import torch.distributed.fsdp  # before the processes are forked
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed

from fewstep.diffusion.denoiser import Denoiser
from fewstep.families.recorded_conditions import table_of
from fewstep.recipes import Overrides, Recipe
from fewstep.students.export import export_student, load_student
from fewstep.students.export_form import Form, require_form
from fewstep.students.student_settings import StudentSettings
from fewstep.teachers import load_teacher
from fewstep.training.distillation import Distillation
from fewstep.training.distributed import backends
from fewstep.training.recipe_fit import require_recipe, require_shardable
from fewstep.training.run_options import RunOptions
from fewstep.training.step.batches import TensorData
from fewstep.trajectories import TrajectorySettings
from fewstep.util.device import default_device
from fewstep.util.errors import SettingsError
from tests.fewstep.families.pipelines import KINDS, LINES
from tests.fewstep.families.recipe_matrix import quick
from tests.scale_document import write_part

ARRANGEMENTS = {"one process": (1, False), "replicate 2": (2, False), "shard 2": (2, True)}
WEIGHTS = {"full": {}, "LoRA": {"lora": {"rank": 2}}}
RECIPES = ("dmd2", "lcm", "meanflow", "ladd", "tdm")
FAMILIES = {"sd": "UNet2DConditionModel", "dit": "DiTTransformer2DModel (classes)",
            "sd3": "SD3Transformer2DModel (flow)"}  # fmt: skip
BATCH, CYCLES = 4, 3
CLOSE = 1e-6
"""Of sums in another order: the difference of two students over the way that they went, in float64."""


class Cell:
    """A recipe on a family: what all arrangements of it have in common. `folder` holds its runs, made on `device`."""

    def __init__(self, weights: str, recipe: str, kind: str, folder: Path, device: str = "cpu"):
        teacher(kind)   # before processes are forked, of which each would learn a tokenizer of its own
        self.kind, self.folder, self.device = kind, folder, device
        data = quick(recipe).model_dump(mode="json")
        data["student"] |= WEIGHTS[weights]
        self.recipe = Recipe.model_validate(data).override(Overrides(batch=BATCH, parts=2))
        self._alone: dict[str, dict[str, Tensor]] = {}
        self.form = form_of(self.recipe.student)

    def refusal(self, shards: bool) -> str | None:
        """Why it cannot be, as it is said before any work."""
        try:
            require_recipe(self.recipe, teacher(self.kind))
            if shards:
                require_shardable(self.recipe, teacher(self.kind).network)
        except SettingsError as error:
            return str(error).partition(": ")[2]
        return None

    def student(self, name: str, size: int, shards: bool, precision: str = "float32",
                dies: bool = False) -> dict[str, Tensor]:  # fmt: skip
        """Weights of the student that so many processes train in the folder of this name, and export; with `dies` the
        last of them kills itself on its way, and the others are killed."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        ends = together(size, lambda rank: self._train(folder, rank, shards, precision, dies and rank == size - 1),
                        self.device)  # fmt: skip
        if dies:
            assert ends[-1] == -signal.SIGKILL and not (folder / "student.safetensors").exists(), ends
            assert list(folder.rglob("step-*.json")), "nothing was saved before the kill"
            return {}
        assert not any(ends), f"{name}: processes ended with {ends}"
        return load_file(folder / "student.safetensors")

    def _train(self, folder: Path, rank: int, shards: bool, precision: str, dies: bool) -> None:
        own = teacher(self.kind)
        source = torch.Generator().manual_seed(0)
        classes = own.num_classes if own.num_classes < BATCH else 2
        x = torch.randn(2 * BATCH, *own.sample_shape, generator=source)
        data = TensorData(x, torch.arange(2 * BATCH) % classes)
        recipe = self.recipe.override(Overrides(precision=precision))
        cycles = CYCLES * max(sum(one.turns.values()) for one in recipe.rounds)
        options = RunOptions(recipe.images_for(cycles), 0, folder, self.device, checkpoint_images=BATCH,
                             shards=shards)  # fmt: skip
        pairs = TrajectorySettings(count=2 * BATCH, steps=2, record_size=BATCH)
        job, told = Distillation(recipe, own, options, data=data, trajectories=pairs), []

        def on_progress(done: int, _total: int, _figures: dict[str, float]) -> None:
            told.append(done)
            if dies and len(told) == 2:
                while not list(folder.rglob("step-*.json")):    # a thread of the first process writes it
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)

        for index in range(len(recipe.rounds)):
            job.student_after(index, on_progress)
        student = job.student()
        if rank == 0:
            student.denoiser.to("cpu")
            save_file(student.denoiser.state_dict(), folder / "student.safetensors")
            export_student(student, folder / "export", self.form, saved(self.kind))

    def exported(self, name: str) -> dict[str, bytes]:
        """The files of an exported student, which we can open."""
        folder = self.folder / name / "export"
        assert load_student(folder).sampler is not None
        return {str(path.relative_to(folder)): path.read_bytes()
                for path in sorted(folder.rglob("*")) if path.is_file()}  # fmt: skip

    def alone(self, precision: str) -> dict[str, Tensor]:
        """The student of one process."""
        if precision not in self._alone:
            self._alone[precision] = self.student(f"one-process-{precision}", 1, False, precision)
        return self._alone[precision]


def form_of(student: StudentSettings) -> Form:
    """Adapters as a file of their own where that can be."""
    try:
        require_form("lora", student)
    except SettingsError:
        return "pipeline"
    return "lora"


def tried(cell: Cell, arrangement: str) -> None:
    """Trains, kills, resumes and exports; AssertionError unless it is all as it should be."""
    size, shards = ARRANGEMENTS[arrangement]
    name = arrangement.replace(" ", "-")
    undisturbed = cell.alone("float32") if size == 1 else cell.student(f"{name}-float32", size, shards)
    assert all(value.isfinite().all() for value in undisturbed.values() if value.is_floating_point())
    cell.student(f"{name}-killed", size, shards, dies=True)
    resumed = cell.student(f"{name}-killed", size, shards)
    assert equal(resumed, undisturbed), "resumed after SIGKILL it is another student"
    assert cell.exported(f"{name}-killed") == cell.exported(f"{name}-float32"), "resumed, it is exported as other bytes"
    if not shards:
        assert equal(undisturbed, cell.alone("float32")), "it is not the student of one process"
        return
    exact, wanted = cell.student(f"{name}-exact", size, shards, "float64"), cell.alone("float64")
    assert exact.keys() == wanted.keys()
    start = teacher(cell.kind).state_dict()
    apart, way = (math.sqrt(sum(float((value.double() - other.get(key, torch.zeros(())).double()).square().sum())
                                for key, value in exact.items())) for other in (wanted, start))  # fmt: skip
    assert apart <= CLOSE * way, f"{apart} from the student of one process, which went {way}"


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two students have the same weights, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def together(size: int, work: Callable[[int], None], device: str = "cpu") -> list[int]:
    """How so many processes ended that did `work(rank)`, each on its own device of this kind, forked from this
    one: 0, or minus a signal. When one fails the others are killed."""
    with tempfile.TemporaryDirectory() as meeting:
        running = {rank: forked(lambda rank=rank: in_group(rank, size, Path(meeting) / "store", work, device))
                   for rank in range(size)}  # fmt: skip
        ends: dict[int, int] = {}
        while len(ends) < size:
            for rank, pid in running.items():
                if rank in ends:
                    continue
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    ends[rank] = os.waitstatus_to_exitcode(status)
                elif any(ends.values()):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
    return [ends[rank] for rank in range(size)]


def forked(work: Callable[[], None]) -> int:
    """Process id of a fork of this process that does `work`, and tells where it failed."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {str(error)[:300]}", file=sys.stderr, flush=True)
        os._exit(1)


def in_group(rank: int, size: int, store: Path, work: Callable[[int], None], device: str) -> None:
    """Does the work as one of a group, or alone."""
    if device == "cuda":
        torch.cuda.set_device(rank)
        default_device()    # settles the arithmetic of GPUs
    if size > 1:
        distributed.init_process_group(backends(device == "cuda"), init_method=f"file://{store}", rank=rank,
                                       world_size=size, timeout=timedelta(seconds=300))  # fmt: skip
    work(rank)
    if size > 1:
        distributed.barrier()


@cache
def saved(kind: str) -> Path:
    """The folder of a tiny pipeline."""
    folder = Path(tempfile.mkdtemp(prefix="fewstep-scale-"))
    KINDS[kind].save(folder)
    return folder


@cache
def _loaded(kind: str) -> Denoiser:
    found = load_teacher(saved(kind), arguments=KINDS[kind].arguments)
    if KINDS[kind].conditions == "prompt":
        found.take(table_of(diffusers.DiffusionPipeline.from_pretrained(saved(kind)), found.family, LINES[:4]))
    return found


def teacher(kind: str) -> Denoiser:
    """The denoiser of a tiny pipeline: a copy."""
    return copy.deepcopy(_loaded(kind))


def document(cells: dict[str, str | None]) -> str:
    """The table as Markdown: the reasons of refusals by letter."""
    reasons = {reason: chr(ord("a") + number)
               for number, reason in enumerate(dict.fromkeys(r for r in cells.values() if r is not None))}  # fmt: skip
    lines = [
        "# Processes that train together", "",
        "Generated by `make scale` (tests/fewstep/training/scale_matrix.py) on a CPU, with gloo: each recipe distils a",
        "tiny, untrained pipeline of each family for some cycles of its turns. ✓:", "",
        "* it trains, and its weights are finite;",
        "* after SIGKILL of a process in the middle it goes on, and ends in the same student bit for bit;",
        "* the student leaves as a pipeline (adapters as a file of their own, where the stock pipeline loads such), of",
        "  the same bytes whether or not there was a kill;",
        "* *replicate* makes the student of one process bit for bit; *shard* the same but for the order of sums:",
        f"  trained in float64, the students differ by less than {CLOSE:g} of the way that they went.", "",
        "`make test-slow` holds every cell to it. Nothing is said of quality, nor of GPUs. A row alone:",
        "`python -m tests.fewstep.training.scale_matrix` with what stands at its end.",
        *(["A letter: it is refused before any work, for the reason below."] if reasons else []), "",
        f"| network | weights | recipe | {' | '.join(ARRANGEMENTS)} | command |",
        f"|---|---|---|{'---|' * len(ARRANGEMENTS)}---|",
    ]  # fmt: skip
    for kind, network in FAMILIES.items():
        for weights in WEIGHTS:
            for recipe in RECIPES:
                found = (cells[f"{arrangement}/{weights}/{recipe}/{kind}"] for arrangement in ARRANGEMENTS)
                marks = [reasons.get(reason, "✓") for reason in found]
                row = f"{weights}/{recipe}/{kind}"
                lines.append(f"| {network} | {weights} | {recipe} | {' | '.join(marks)} | `--only {row}` |")
    lines += ["", *(f"* {letter}: {reason}" for reason, letter in reasons.items())]
    return "\n".join(lines).rstrip() + "\n"


def names() -> list[str]:
    """All cells: arrangement/weights/recipe/family."""
    return [f"{arrangement}/{weights}/{recipe}/{kind}" for kind in FAMILIES for weights in WEIGHTS for recipe in RECIPES
            for arrangement in ARRANGEMENTS]  # fmt: skip


def chosen_cells(only: list[str]) -> list[str]:
    """The cells of these names; a name without its arrangement is all three."""
    return [name for name in names() if {name, name.partition("/")[2]} & set(only)]


def main() -> None:
    """Runs the cells and writes the document, unless one fails; cells in the file of `--keep` are not run again."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", type=Path, help="JSON lines of finished cells, to continue from")
    parser.add_argument("--only", nargs="*", help="cells to run; with it nothing is written")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: a GPU for each process")
    chosen = parser.parse_args()
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"   # to look for GPUs would keep forks from using them
    torch.set_num_threads(1)
    kept = chosen.keep.read_text().splitlines() if chosen.keep and chosen.keep.is_file() else []
    cells: dict[str, str | None] = dict(map(json.loads, kept))
    wanted = chosen_cells(chosen.only) if chosen.only else names()
    if not wanted:
        parser.error(f"no such cell: {', '.join(chosen.only)}")
    failed: list[str] = []
    groups = dict.fromkeys(name.partition("/")[2] for name in wanted if name not in cells)
    for group in groups:
        with tempfile.TemporaryDirectory(prefix="fewstep-cell-") as folder:
            cell = Cell(*group.split("/"), Path(folder), chosen.device)
            for name in wanted:
                arrangement, _, rest = name.partition("/")
                if rest != group or name in cells:
                    continue
                reason = cell.refusal(ARRANGEMENTS[arrangement][1])
                try:
                    if reason is None:
                        tried(cell, arrangement)
                except AssertionError as error:
                    failed.append(name)
                    print(f"{name:45s} FAILED: {error}", flush=True)
                    continue
                cells[name] = reason
                print(f"{name:45s} {reason or 'ok'}", flush=True)
                if chosen.keep:
                    with chosen.keep.open("a") as file:
                        file.write(json.dumps([name, cells[name]]) + "\n")
    if failed:
        sys.exit(f"{len(failed)} cells failed")
    if not chosen.only and chosen.device == "cpu":
        write_part(document(cells))


if __name__ == "__main__":
    main()
