"""What a training step asks of a device, and of the host, beside the networks' own calls.

    python -m benchmarks.bench_host [RECIPE ...] [--batch N] [--rounds N] [--json FILE]

Kernels: operations on tensors of a made-up device (benchmarks/made_up_device.py), views and allocations left out, of a
step less those of the same network calls, clipping, optimiser and average without anything around
(benchmarks/replay.py); the mean over a cycle of turns. It is a count, the same on every machine. Host time: processor
time of both on the CPU in small batches, by turns; what the keyed draws of a large batch take comes on top.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import measure
from benchmarks.bench_training import rounds_of, teacher, trainer_of
from benchmarks.made_up_device import DEVICE, known_to_torch, trainers
from benchmarks.replay import Minimal
from fewstep.recipes import Overrides, load_recipe, recipe_names
from fewstep.training import TensorData
from fewstep.training.loss_meter import Figures

KERNELS, MILLISECONDS, CYCLES = 300, 1.0, 4
_NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "lift_fresh",
              "_unsafe_view", "set_", "resize_", "is_same_size", "_reshape_alias", "alias"}  # fmt: skip


class Kernels(TorchDispatchMode):
    """Counts the operations that a device would have to do."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: tuple = (), named: dict | None = None) -> Any:
        found = function(*arguments, **(named or {}))
        name = function._schema.name.partition("::")[2]
        there = any(isinstance(one, Tensor) and one.device == DEVICE for one in tree_leaves((found, arguments)))
        self.count += there and name not in _NO_KERNEL and not function.is_view
        return found


def kernels(work: Callable[[], object]) -> int:
    """How many operations the device is asked for."""
    with Kernels() as counted:
        work()
    return counted.count


def kernels_of(name: str, index: int, folder: Path, batch: int) -> float:
    """Kernels a step of this round, beside those of its networks."""
    recipe, own = load_recipe(name).override(Overrides(batch=batch, precision="float32")), teacher()
    source = torch.Generator().manual_seed(0)
    data = TensorData(torch.randn(64, *own.sample_shape, generator=source), torch.arange(64) % own.num_classes)
    images = recipe.images_for(CYCLES * max(sum(one.turns.values()) for one in recipe.rounds))
    with known_to_torch():
        made = list(trainers(recipe, own, data, folder, images, [index]))[0]
        once = len(made.cycle)
        cycle = range(once, 2 * once)   # the same for both: how many calls a step makes may be drawn
        minimal = Minimal(made, cycle)
        minimal.run()
        ours = kernels(lambda: [made.turn(k, Figures(made.where)) for k in cycle])
        return (ours - kernels(minimal.run)) / once


def seconds_of(name: str, index: int, folder: Path, batch: int, rounds: int) -> tuple[float, int]:
    """Processor seconds of a step beside those of its networks, median over the rounds; and the steps of a run."""
    ours, minimal = (trainer_of(name, index, folder, batch, CYCLES, samples=64) for _ in range(2))
    replayed = Minimal(minimal)
    times = measure.take_turns({"ours": ours.run, "minimal": replayed.run}, rounds, time.process_time)
    spent = [(a - b) / ours.steps for a, b in zip(times["ours"], times["minimal"], strict=True)]
    return statistics.median(spent), ours.steps


def main(arguments: list[str] | None = None) -> dict:
    """Measure, print and return the figures."""
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", default=recipe_names(), help="all unless named")
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.recipes:
            for index in rounds_of(load_recipe(name)):
                label = name if index == 0 else f"{name}, round {index + 1}"
                count = kernels_of(name, index, Path(folder, "made-up"), options.batch)
                found[label] = count, 1e3 * seconds_of(name, index, Path(folder), options.batch, options.rounds)[0]
                print(label, *found[label], flush=True)
    measure.publish(options, table(found), {"kernels_and_ms": found})
    return found


def table(found: dict[str, tuple[float, float]]) -> str:
    """The result as Markdown."""
    lines = ["### A step beside its networks' calls", "",
             f"Kernels on a device (goal: ≤ {KERNELS}) and ms of host time (goal: ≤ {MILLISECONDS:g}) a step, mean of "
             "a cycle of turns: `python -m benchmarks.bench_host`.", "",
             "| recipe | kernels | host ms | goals |", "|---|---:|---:|---|"]  # fmt: skip
    for name, (count, spent) in found.items():
        met = ["met" if good else "missed" for good in (count <= KERNELS, spent <= MILLISECONDS)]
        lines.append(f"| {name} | {count:,.0f} | {spent:.2f} | {', '.join(met)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
