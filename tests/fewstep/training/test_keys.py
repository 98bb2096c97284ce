"""Every settings key of a recipe is read by the code that a run goes through: no key is dead."""

import pytest
import torch

from fewstep.configuration import Strict
from fewstep.recipes import Recipe, parse_recipe, recipe_names, terms
from fewstep.recipes import settings as parts
from tests.fewstep.training.small import BATCH, finish, run, tiny

TOLD = {"summary", "reference", "status", "published", "target", "flow_map"}  # of the recipe, no part of its run
EVERYTHING = {
    "name": "everything",
    "student": {"steps": 2, "sampler": "renoise", "max_noise_ratio": 50},
    "training": {"batch": BATCH, "accumulate": 2},
    "rounds": [
        {
            "turns": {"fake_score": 1, "student": 1},
            "terms": [
                {"term": "regression", "distance": "pseudo_huber"},
                {"term": "flow_matching", "source": "data"},
                {"term": "consistency"},
                {"term": "denoising", "class_dropout": 0.5},
                {"term": "distribution_matching", "fake_score": {"init": "student", "lr_scale": 2}},
                {"term": "adversarial"},
            ],
        },
        {
            "turns": {"fake_score": 1, "student": 1},
            "terms": [
                {"term": "distribution_matching", "guidance": {"low": 1, "high": 2}, "divergence": "jeffreys",
                 "gradient": "score_identity"},
                {"term": "adversarial"},
                {"term": "reward", "reward": {"kind": "classifier", "fit_steps": 2}, "clamp": -0.1},
            ],
        },
        {
            "turns": {"discriminator": 1, "student": 1},
            "start": "teacher",
            "merge": [{"round": 1, "weight": 0.5}],
            "terms": [
                {"term": "adversarial", "features": "samples", "labels": True, "real": "pairs", "times": None,
                 "gradient_penalty": {"kind": "approximate"}},
                {"term": "regression", "at": "states", "to": "next", "distance": "perceptual"},
                {"term": "regression", "at": "samples", "weighting": "alpha"},
            ],
        },
        {
            "start": "random",
            "teacher": "previous",
            "terms": [{"term": "flow_matching", "times": {"kind": "lognormal"}}],
        },
    ],
}


@pytest.fixture
def reads(monkeypatch):
    """(class, attribute) of every attribute of a settings object that code asks for."""
    seen = set()
    plain = Strict.__getattribute__

    def noted(self, name):
        if not name.startswith("_"):
            seen.add((type(self).__name__, name))
        return plain(self, name)

    monkeypatch.setattr(Strict, "__getattribute__", noted)
    return seen


def test_every_key_is_read_in_a_run(reads, tmp_path):
    recipe = parse_recipe(EVERYTHING, "everything")
    reads.clear()
    finish(run(recipe, tmp_path / "everything", images=8 * BATCH))
    for name in recipe_names():
        finish(run(tiny(name), tmp_path / name, images=6 * BATCH))
    models = [Recipe, terms.Needs, *(m for m in vars(parts).values() if _is_settings(m)),
              *(m for m in vars(terms).values() if _is_settings(m))]  # fmt: skip
    from fewstep.recipes import Round

    models.append(Round)
    asked = {(cls, name) for cls, name in reads}
    dead = []
    for model in {m for m in models if m not in (parts.Overrides, terms.TermSettings)}:
        for key in model.model_fields:
            tag = key in ("kind", "term") and model.__module__ in (parts.__name__, terms.__name__)
            if key not in TOLD and not tag and (model.__name__, key) not in asked:
                dead.append(f"{model.__name__}.{key}")
    assert not dead


def _is_settings(value) -> bool:
    return isinstance(value, type) and issubclass(value, Strict) and value is not Strict


def test_two_steps_are_trained_where_sampling_goes(tmp_path):
    """A student of two steps is sampled on the grid that training used, and gives finite samples."""
    job = run(parse_recipe({**EVERYTHING, "rounds": EVERYTHING["rounds"][:1]}, "two"), tmp_path, images=8 * BATCH)
    student = job.student_after(0)
    assert len(student.times()) == 2 and student.start < 1
    out = student.sample(torch.randn(4, 1, 8, 8), condition=torch.arange(4) % 3, seed=3)
    assert out.shape == (4, 1, 8, 8) and torch.isfinite(out).all()
