"""What it saves that a call for inner features ends with them, and that a frozen network's share a call and a turn.

    python -m benchmarks.bench_features [--batch N] [--cycles N] [--rounds N] [--json FILE]

The digits networks (8 x 8), processor time of one thread. DMD2's cycle is five turns of the fake score and one of the
student; heads on the frozen teacher have five turns of their own unless the fake score's serve them too. Each variant
trains networks of its own.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.bench_training import trainer_of
from fewstep.diffusion.noise_level_settings import Times
from fewstep.networks.block_features import predict_with_features
from fewstep.recipes import Recipe, load_recipe
from fewstep.training import RoundTrainer
from fewstep.training.step.shared_predictions import SharedPredictions
from fewstep.util.config import parse

AS_IS, WHOLE = "dmd2", "dmd2, whole calls"
ONE_TURN, OWN_TURN = "heads on the teacher, one turn", "heads on the teacher, own turn and whole calls"


def on_teacher(turn: str) -> Recipe:
    """DMD2 with its heads on the frozen teacher's features, trained in this turn."""
    data = load_recipe("dmd2").model_dump(mode="json")
    own = data["rounds"][0]
    own["terms"][1] |= {"features": "teacher", "turn": turn}
    own["turns"] = {"fake_score": 5, turn: 5, "student": 1}
    return parse(Recipe, data | {"name": f"heads-{turn}"}, "benchmark")


def whole_calls(trainer: RoundTrainer) -> Callable[[], None]:
    """The trainer's run in which features of the fake score at real samples, and all of the teacher's, come with a
    prediction that nobody wants."""
    shared = SharedPredictions.features

    def features(self: SharedPredictions, role: str, samples: str, times: Times) -> list[Tensor]:
        if role == "fake_score" and samples == "fake":
            return shared(self, role, samples, times)
        step, at = self._step, self.raised(samples, times)
        with torch.set_grad_enabled(step.role in (role, "student")):
            return predict_with_features(step.networks[role], at.x, at.t, step.batch.condition)[1]

    def run() -> None:
        with patch.object(SharedPredictions, "features", features):
            trainer.run()

    return run


def main(arguments: list[str] | None = None) -> dict:
    """Measure, print and return the figures."""
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--cycles", type=int, default=1, help="cycles of turns in one measurement")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    recipes = {AS_IS: load_recipe("dmd2"), ONE_TURN: on_teacher("fake_score"), OWN_TURN: on_teacher("discriminator")}
    with tempfile.TemporaryDirectory() as folder:
        trainers = {name: trainer_of(recipe, 0, Path(folder), options.batch, options.cycles)
                    for name, recipe in (recipes | {WHOLE: recipes[AS_IS]}).items()}  # fmt: skip
        work = {name: whole_calls(trainer) if name in (WHOLE, OWN_TURN) else trainer.run
                for name, trainer in trainers.items()}  # fmt: skip
        times = measure.take_turns(work, options.rounds, time.process_time)
        rate = measure.rates(times, dict.fromkeys(work, options.cycles * options.batch))
    early, shared = measure.ratio(rate, AS_IS, WHOLE), measure.ratio(rate, ONE_TURN, OWN_TURN)
    goals = [measure.goal("features that end their call over whole calls", early, 1.05),
             measure.goal("one turn and shared calls over a turn of their own", shared, 1.3)]  # fmt: skip
    title = f"DMD2's cycle of turns, batch {options.batch}: images of the student's turn"
    text = measure.table(title, rate, goals, "images/s")
    figures = {"images_per_second": {name: statistics.median(v) for name, v in rate.items()}, "goals": goals}
    measure.publish(options, text, figures)
    return figures


if __name__ == "__main__":
    main()
