"""A training step of each recipe against a minimal loop with the same network calls and the same updates.

    python -m benchmarks.bench_training [RECIPE ...] [--batch N] [--steps N] [--rounds N] [--threads N] [--json FILE]

The digits networks (8 x 8). Both sides do the same forward and backward passes, clip, step fused AdamW and average;
ours also reads verified records, draws keyed randomness, computes the objective, checks for NaN and keeps figures for
the log. The minimal loop is recorded from the recipe itself (benchmarks/replay.py): a new recipe appears by itself.
With one thread, processor time is measured.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks import measure
from benchmarks.replay import Minimal
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.processes import VariancePreserving
from fewstep.recipes import Overrides, Recipe, load_recipe, recipe_names
from fewstep.teachers import new_unet
from fewstep.training import Distillation, RoundTrainer, RunOptions, TensorData
from fewstep.trajectories import TrajectorySettings

CLASSES, LIMIT = 10, 1 / 1.10


def teacher() -> Denoiser:
    network = new_unet(8, 1, CLASSES, (32, 64), 1)
    return Denoiser(network, VariancePreserving.cosine(), "v_prediction", (1, 8, 8), CLASSES, CLASSES)


def rounds_of(recipe: Recipe) -> list[int]:
    """The rounds whose terms or turns are not those of one before."""
    kinds = [(own.terms, own.turns) for own in recipe.rounds]
    return [index for index, kind in enumerate(kinds) if kind not in kinds[:index]]


def trainer_of(name: str | Recipe, index: int, folder: Path, batch: int, cycles: int,
               of: Callable[[], Denoiser] = teacher, samples: int = 2048) -> RoundTrainer:  # fmt: skip
    """Round `index` of a recipe (or of the one with this name), for so many cycles of turns, on `samples` random states
    of a teacher; the rounds before are run first."""
    source, denoiser = torch.Generator().manual_seed(0), of()
    x = torch.randn(samples, *denoiser.sample_shape, generator=source)
    y = torch.randint(denoiser.num_classes, (samples,), generator=source)
    recipe = load_recipe(name).override(Overrides(batch=batch, precision="float32"))
    own = recipe.rounds[index]
    share = own.share / sum(r.share for r in recipe.rounds)
    images = round(sum(own.turns.values()) * cycles * batch / share)
    settings = TrajectorySettings(count=samples, solver="ddim", steps=1 if recipe.needs.states is None else 4)
    options = RunOptions(images, seed=0, folder=folder / recipe.name, keep_checkpoints=False)
    run = Distillation(recipe, denoiser, options, data=TensorData(x, y), trajectories=settings)
    return run.trainer(index)[0]


def variants(
    names: Sequence[str], folder: Path, batch: int, cycles: int
) -> tuple[dict[str, Callable[[], object]], dict[str, int]]:
    """Work and images of both sides for every recipe and kind of round; `cycles` of turns each."""
    work, images = {}, {}
    for name in names:
        for index in rounds_of(load_recipe(name)):
            trainer = trainer_of(name, index, folder, batch, cycles)
            minimal = Minimal(trainer_of(name, index, folder, batch, cycles))
            label = name if index == 0 else f"{name}, round {index + 1}"
            work[label], work[f"{label}, minimal loop"] = trainer.run, minimal.run
            images |= dict.fromkeys((label, f"{label}, minimal loop"), trainer.steps * batch)
    return work, images


def main(arguments: list[str] | None = None) -> dict:
    """Measure, print and return the figures."""
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", default=recipe_names(), help="all unless named")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4, help="cycles of turns in one measurement")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        work, images = variants(options.recipes, Path(folder), options.batch, options.steps)
        clock = time.process_time if options.threads == 1 else time.perf_counter
        rate = measure.rates(measure.take_turns(work, options.rounds, clock), images)
    goals = []
    for label in work:
        if not label.endswith(", minimal loop"):
            found = measure.ratio(rate, label, f"{label}, minimal loop")
            goals.append(measure.goal(f"{label} over its minimal loop", found, round(LIMIT, 3)))
    title = f"Training steps of each recipe, and of its rounds of other terms, batch {options.batch}"
    text = measure.table(title, rate, goals, "images/s")
    figures = {"images_per_second": {name: statistics.median(v) for name, v in rate.items()}, "goals": goals}
    measure.publish(options, text, figures)
    return figures


if __name__ == "__main__":
    main()
