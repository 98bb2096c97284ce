"""What the terms of a step ask of the networks is computed once, and no further than somebody wants it."""

from collections import Counter

import pytest
import torch

from fewstep.diffusion.noise_level_settings import Times
from fewstep.networks.block_features import predict_with_features
from fewstep.objectives.adversarial.settings import AdversarialSettings
from fewstep.recipes import Recipe, parse_recipe
from fewstep.training import RoundTrainer
from fewstep.training.loss_meter import Figures
from fewstep.training.step.shared_predictions import SharedPredictions
from tests.fewstep.training.small import BATCH, finish, run

TIMES = {"kind": "lognormal", "mean": -0.5, "std": 1.2}


def recipe_of(*, features: str = "fake_score", guidance: float = 1.0, swapped: bool = False, times: dict = TIMES,
              **more) -> Recipe:  # fmt: skip
    """DMD2: two turns of the fake score to one of the student."""
    terms = [{"term": "distribution_matching", "times": TIMES, "guidance": guidance},
             {"term": "adversarial", "features": features, "times": times, **more}]  # fmt: skip
    own_turn = features != "fake_score" and "turn" not in more
    turns = {"fake_score": 2, **({"discriminator": 1} if own_turn else {}), "student": 1}
    round_ = {"terms": terms[::-1] if swapped else terms, "turns": turns}
    return parse_recipe({"name": "x", "training": {"batch": BATCH}, "rounds": [round_]}, "a test")


def trainer_of(recipe: Recipe, folder) -> RoundTrainer:
    return run(recipe, folder).trainer(0)[0]


def calls_of(trainer: RoundTrainer, role: str) -> dict[str, tuple[int, int]]:
    """How often a turn of `role` called each network, and how often to its end."""
    begun, ended = Counter(), Counter()
    networks = {id(own.network): (name, own.network) for name, own in reversed(trainer.state.networks.items())}
    handles = []
    for name, network in networks.values():
        handles.append(network.conv_in.register_forward_hook(lambda *_, name=name: begun.update([name])))
        handles.append(network.conv_out.register_forward_hook(lambda *_, name=name: ended.update([name])))
    trainer.turn(trainer.cycle.index(role), Figures("a test"))
    for handle in handles:
        handle.remove()
    return {name: (count, ended[name]) for name, count in begun.items()}


@pytest.mark.parametrize("swapped", [False, True], ids=["scores first", "heads first"])
def test_heads_on_the_fake_score_share_its_calls_and_stop_at_real_samples(tmp_path, swapped):
    trainer = trainer_of(recipe_of(swapped=swapped), tmp_path)
    assert calls_of(trainer, "fake_score") == {"student": (1, 1), "fake_score": (2, 1)}
    assert calls_of(trainer, "student") == {"student": (1, 1), "teacher": (1, 1), "fake_score": (1, 1)}


@pytest.mark.parametrize("swapped", [False, True], ids=["scores first", "heads first"])
def test_heads_on_the_teacher_share_its_score_and_the_fake_scores_turn(tmp_path, swapped):
    trainer = trainer_of(recipe_of(features="teacher", turn="fake_score", swapped=swapped), tmp_path)
    assert trainer.cycle == ["fake_score", "fake_score", "student"]
    assert calls_of(trainer, "fake_score") == {"student": (1, 1), "fake_score": (1, 1), "teacher": (2, 0)}
    assert calls_of(trainer, "student") == {"student": (1, 1), "teacher": (1, 1), "fake_score": (1, 1)}


def test_heads_on_the_teacher_may_have_a_turn_of_their_own(tmp_path):
    trainer = trainer_of(recipe_of(features="teacher"), tmp_path)
    assert calls_of(trainer, "fake_score") == {"student": (1, 1), "fake_score": (1, 1)}
    assert calls_of(trainer, "discriminator") == {"student": (1, 1), "teacher": (2, 0)}


@pytest.mark.parametrize("apart", [{"guidance": 2.0}, {"times": TIMES | {"std": 1.0}}], ids=["guided", "other times"])
def test_features_that_no_plain_prediction_gives_stop_early(tmp_path, apart):
    trainer = trainer_of(recipe_of(features="teacher", turn="fake_score", **apart), tmp_path)
    assert calls_of(trainer, "student")["teacher"] == (2, 1)


def apart(self: SharedPredictions, role: str, samples: str, times: Times) -> list[torch.Tensor]:
    """Features by a whole call of their own."""
    step, at = self._step, self.raised(samples, times)
    with torch.set_grad_enabled(step.role in (role, "student")):
        return predict_with_features(step.networks[role], at.x, at.t, step.batch.condition)[1]


def test_a_shared_call_gives_the_bits_of_two(tmp_path, monkeypatch):
    recipe = recipe_of(features="teacher", turn="fake_score")
    shared = finish(run(recipe, tmp_path / "shared", images=12 * BATCH))
    monkeypatch.setattr(SharedPredictions, "features", apart)
    other = finish(run(recipe, tmp_path / "apart", images=12 * BATCH))
    assert all(torch.equal(value, other[name]) for name, value in shared.items())


def test_heads_on_a_trained_network_stay_in_its_turn():
    with pytest.raises(ValueError, match="trained with it, in its turn"):
        AdversarialSettings(term="adversarial", features="fake_score", turn="discriminator")
