"""What a step's own thread waits for random numbers and samples: made when asked for, and ahead (step/ahead.py).

    python -m benchmarks.bench_ahead [--recipe NAME] [--batch N] [--rounds N]

On a GPU the step's thread should do nothing but ask it for work. Here the CPU stands for the device: what is measured
is the time from asking for draws until they are there, beside a step that takes the network its time.
"""

from __future__ import annotations

import dataclasses
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks import measure
from benchmarks.bench_training import CLASSES, trainer_of
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.processes import VariancePreserving
from fewstep.teachers import new_unet
from fewstep.training import RoundTrainer
from fewstep.training.step.ahead import Ahead
from fewstep.training.step.keyed_draws import Draws

SIZE, CHANNELS, CYCLES, LESS = 32, 3, 2, 5.0


def teacher() -> Denoiser:
    """A small network on images of a size at which their noise takes its time."""
    return Denoiser(new_unet(SIZE, CHANNELS, CLASSES, (8,), 1), VariancePreserving.cosine(), "v_prediction",
                    (CHANNELS, SIZE, SIZE), CLASSES, CLASSES)  # fmt: skip


@contextmanager
def waited() -> Iterator[Callable[[], float]]:
    """Tells the seconds that the thread which entered has waited for draws inside."""
    total, owner = [0.0], threading.get_ident()

    def timed(function: Callable) -> Callable:
        def called(*arguments: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                if threading.get_ident() == owner:
                    total[0] += time.perf_counter() - begun
        return called

    with mock.patch.object(Draws, "here", timed(Draws.here)), mock.patch.object(Ahead, "draws", timed(Ahead.draws)):
        yield lambda: total[0]


def milliseconds(trainer: RoundTrainer) -> float:
    """Of waiting, a step."""
    with waited() as seconds:
        trainer.run()
    return 1e3 * seconds() / trainer.steps


def main(arguments: list[str] | None = None) -> dict:
    """Measure, print and return the figures."""
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="dmd2")
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    names = {"made when asked for": False, "made ahead": True}
    found: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            for name, ahead in names.items():
                trainer = trainer_of(options.recipe, 0, Path(folder, f"{number}{ahead}"), options.batch, CYCLES,
                                     teacher, samples=options.batch)  # fmt: skip
                trainer.options = dataclasses.replace(trainer.options, made_ahead=ahead)
                found[name].append(milliseconds(trainer))
    slow, fast = found.values()
    spread = sorted(a / b for a, b in zip(slow, fast, strict=True))
    ratio = {"median": spread[len(spread) // 2], "least": spread[0], "greatest": spread[-1]}
    title = f"A step's wait for draws and samples: {options.recipe}, {options.batch} of {CHANNELS} × {SIZE} × {SIZE}"
    goals = [measure.goal("made when asked for over made ahead", ratio, LESS)]
    measure.publish(options, measure.table(title, found, goals, "ms a step"), {"milliseconds": found, "goals": goals})
    return found


if __name__ == "__main__":
    main()
