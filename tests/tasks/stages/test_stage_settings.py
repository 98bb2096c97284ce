"""Every setting that a stage resolves is read by its work: a setting nobody reads is a promise nobody keeps."""

from __future__ import annotations

import pytest

from fewstep.util.config import Strict
from tasks.engine import graph
from tasks.engine.runner import run_units
from tests.tasks.stages.evaluation_world import World
from tests.tasks.stages.test_training_stages import set_to

BY_RECIPE = {"steps", "batch", "parts", "accumulate", "lr", "schedule", "warmup", "clip", "ema", "precision",
             "frozen", "guided_calls", "moments"}
"""Of distill: overrides, which are read when they are laid over the recipe (tests/tasks/config/test_schema.py)."""
# they tell two kinds of settings apart
TAGS = {"TrainedTeacher.source", "NeededSet.needs", "NothingToEncode.encodes", "NothingToDraw.draws"}
# read where an image is, or a caption: test_shard_stage.py, test_encode_images.py
OF_OWN_IMAGES = {"Data.max_corrupt_share", "Data.conditions"}


@pytest.fixture
def reads(monkeypatch) -> set[tuple[type, str]]:
    """(model, field) of every setting that is read from now on; dumping a model reads all of it."""
    seen: set[tuple[type, str]] = set()
    plain, dump = Strict.__getattribute__, Strict.model_dump

    def read(self, name):
        fields = type(self).__dict__.get("__pydantic_fields__", {})
        if name in fields:
            seen.add((type(self), name))
        return plain(self, name)

    def dumped(self, **options):
        seen.update((type(self), name) for name in type(self).model_fields)
        return dump(self, **options)

    monkeypatch.setattr(Strict, "__getattribute__", read)
    monkeypatch.setattr(Strict, "model_dump", dumped)
    return seen


def fields(settings: Strict) -> set[tuple[type, str]]:
    """(model, field) of all settings in a resolved model, those of nested models too."""
    names = {(type(settings), name) for name in type(settings).model_fields}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Strict) and name != "recipe":
            names |= fields(value)
    return names


def test_every_setting_of_every_stage_is_read_by_its_work(tmp_path, reads):
    world = set_to(World(tmp_path), distill={"images": 64}, teacher={"images": 64})
    world.settings = world.settings.model_copy(update={"evaluate": World(tmp_path).settings.evaluate.model_copy(
        update={"samples": 40, "classifier": world.settings.evaluate.classifier.model_copy(update={"images": 256})})})
    unread = {}
    for stage in graph.IN_DVC:
        context = world.context(stage.name)
        wanted = fields(context.settings)
        plain = context.settings.model_dump(mode="json")
        reads.clear()
        stage.check(context)
        run_units(stage, context)
        left = {f"{model.__name__}.{name}" for model, name in wanted - reads
                if not (stage.name == "distill" and name in BY_RECIPE)}  # fmt: skip
        if left - TAGS - OF_OWN_IMAGES:
            unread[stage.name] = sorted(left)
        world.publish(stage.name, context.out, plain)
    assert unread == {}
