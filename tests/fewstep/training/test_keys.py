"""Every settings key of a recipe is read by the code that a run goes through: no key is dead."""

from typing import get_args

import pytest
import torch

from fewstep.objectives.registry import term_names, term_settings
from fewstep.objectives.role_settings import RoleSettings
from fewstep.recipes import Recipe, parse_recipe, recipe_names
from fewstep.recipes.published import Published
from fewstep.recipes.training_settings import OptimiserSettings, TrainingSettings
from fewstep.students.student_settings import GuidanceInput, SizeSettings, StudentSettings
from fewstep.util.config import Strict
from tests.fewstep.training.small import BATCH, finish, run, tiny

TOLD = {"summary", "reference", "status", "published", "target", "flow_map", "title", "arxiv"}  # no part of its run
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
                {"term": "adversarial", "gradient_penalty": {"kind": "approximate"}},
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
                {"term": "regression", "distance": "perceptual", "extractor": f"{__name__}:extractor"},
                {"term": "mmd", "space": "features"},
                {"term": "reward", "reward": {"kind": "python", "function": f"{__name__}:brightness"}},
            ],
        },
        {
            "start": "random",
            "teacher": "previous",
            "terms": [{"term": "flow_matching", "times": {"kind": "lognormal"}}],
        },
    ],
}


def extractor():
    """A feature network of regression."""
    return lambda x: [x, x.square()]


def brightness(x, condition):
    """A reward."""
    return x.flatten(1).mean(1)


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
    """Of every settings class of recipes, wherever it stands; what only validation reads does not count."""
    recipes = [parse_recipe(EVERYTHING, "everything"), *(tiny(name) for name in recipe_names())]
    reads.clear()
    for recipe in recipes:
        finish(run(recipe, tmp_path / recipe.name, images=4 * BATCH))
    asked = set(reads)
    dead = [
        f"{model.__name__}.{key}"
        for model in settings_classes()
        if model is not Published  # becomes other keys before a run: tests/fewstep/recipes/test_published.py
        for key in model.model_fields
        if key not in TOLD and key not in ("kind", "term")  # a tag, which chooses the class
        and not any((kind.__name__, key) in asked for kind in (model, *subclasses(model)))
    ]  # fmt: skip
    assert not dead


def settings_classes() -> list[type[Strict]]:
    """Every settings class that a recipe is made of, by the types of its fields."""
    todo, found = [Recipe], []
    while todo:
        kind = todo.pop()
        if isinstance(kind, type) and issubclass(kind, Strict) and kind not in found:
            found.append(kind)
            todo += [field.annotation for field in kind.model_fields.values()]
        else:
            todo += get_args(kind)
    return found


def test_the_classes_that_are_looked_at_are_those_of_every_term_and_section():
    found = settings_classes()
    assert {term_settings(name) for name in term_names()} < set(found)
    sections = {StudentSettings, SizeSettings, OptimiserSettings, TrainingSettings, RoleSettings, GuidanceInput}
    assert sections < set(found)


def subclasses(model: type) -> list[type]:
    return [inner for own in model.__subclasses__() for inner in (own, *subclasses(own))]


def test_two_steps_are_trained_where_sampling_goes(tmp_path):
    """A student of two steps is sampled on the grid that training used, and gives finite samples."""
    job = run(parse_recipe({**EVERYTHING, "rounds": EVERYTHING["rounds"][:1]}, "two"), tmp_path, images=8 * BATCH)
    student = job.student_after(0)
    assert len(student.times()) == 2 and student.start < 1
    out = student.sample(torch.randn(4, 1, 8, 8), condition=torch.arange(4) % 3, seed=3)
    assert out.shape == (4, 1, 8, 8) and torch.isfinite(out).all()
