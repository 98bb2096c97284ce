"""The reference stage by itself: resumed it makes the same bytes, and it draws nothing where there are images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fewstep.families.encoded_set import EncodedSet
from fewstep.metrics.comparison.prompt_contrasts import prompt_contrasts
from fewstep.trajectories import open_set
from fewstep.util.config import parse
from tasks.config.schema import Gate, Settings
from tasks.data.reference_folder import is_drawn
from tasks.engine import graph
from tasks.evaluation.examination_setup import stage_examination
from tasks.stages.distill import data_of
from tests.fewstep.families.pipelines import KINDS
from tests.tasks.stages.evaluation_world import World, contents

PROMPTS = [f"a {colour} {thing}" for colour in ("red", "green", "blue") for thing in ("car", "tree", "apple", "door")]


def made(root: Path, prompts: str, **data: object) -> World:
    """A world with a tiny teacher of texts and these prompts, its teacher taken over."""
    KINDS["sd"].save(root / "pipeline")
    (root / "prompts.txt").write_text(prompts)
    world = World(root / "world", teacher=root / "pipeline")
    world.outside["prompts"] = root / "prompts.txt"
    known = KINDS["sd"].arguments
    sizes = {name: value for name, value in known.items() if name in ("height", "width")}
    world.settings = parse(Settings, {
        "data": {"prompts": str(root / "prompts.txt"), **data},
        "encode": {**sizes, "arguments": {k: v for k, v in known.items() if k not in sizes}},
        "teacher": {"source": str(root / "pipeline"), "check": {"samples": 16, "steps": 2}},
        "trajectories": {"steps": 2, "guidance": 2.0},
        "evaluate": {"samples": 32, "batch": 12, "classifier": {"images": 256, "batch": 16, "features": 4}},
    }, "test")  # fmt: skip
    for stage in ("shard", "encode", "teacher"):
        world.run(stage)
    return world


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    found = made(tmp_path_factory.mktemp("reference"), "\n".join(PROMPTS),
                 split={"train": 0.2, "fit": 0.4, "test": 0.4})  # fmt: skip
    found.summary = found.run("reference")
    return found


def test_a_run_that_was_cut_off_goes_on_and_makes_the_same_bytes(world):
    assert world.summary == {"samples": 96, "drawn": "the teacher's samples at 2 steps (DPM-Solver++, guidance 2)"}
    stage, context = graph.stage("reference"), world.context("reference", "again")
    names = stage.units(context)
    assert names == [f"{split}-{number:05d}" for split in ("train", "fit", "test") for number in range(3)]
    for name in names[::2]:
        stage.run_unit(context, name)
    assert stage.units(context) == names[1::2]
    before = contents(world.folder("reference"))
    assert world.run("reference", workers=2, work="again") == world.summary
    assert contents(world.folder("reference")) == before


def test_the_gate_asks_for_no_copies_and_compares_with_the_champion_alone(world):
    world.run("classifier")
    count = len(EncodedSet(world.folder("encode")).prompts)
    test = stage_examination(world.context("baselines", "gate"), count)
    assert test.drawn == world.summary["drawn"] and is_drawn(world.folder("reference"))
    seen = test.images.observe(torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8,
                                             generator=torch.Generator().manual_seed(0)))  # fmt: skip
    found = {one.name: one for one in prompt_contrasts(seen, seen, test.images.observed, test.asked((seen, seen)),
                                                       Gate().margins.model_dump())}  # fmt: skip
    assert set(found) == {"kid", "retrieval", "repeats"} and found["retrieval"].real is None
    assert all(one.excess == 0 for one in found.values())
    values = test.measure(seen, "student", conditions=test.plan.classes)
    assert {value.protocol.reference for value in values.values()} == {test.drawn}
    assert np.isfinite([value.value for value in values.values()]).all()
    assert not [name for name in (*values, *test.floor()) if name.startswith("nearest")]
    assert {value.subject for value in test.floor().values()} == {"teacher again"}


def of_recipe(world: World, recipe: str, **trajectories: object) -> World:
    """The world's settings with another recipe, in place."""
    chosen = {"count": 8, **world.settings.trajectories.model_dump(exclude_unset=True), **trajectories}
    world.settings = parse(Settings, {**world.settings.model_dump(mode="json", exclude_unset=True),
                                      "trajectories": chosen, "distill": {"recipe": recipe}}, "test")  # fmt: skip
    return world


def test_a_recipe_that_trains_on_data_is_given_samples_of_the_teacher(world):
    of_recipe(world, "dmd2", keep="all")
    assert world.run("trajectories")["samples"] == 8
    data, made = data_of(world.context("distill")), open_set(world.folder("trajectories"))
    states, rows = data.batch(3, 0, 8)
    pairs = made.batch(3, 0, 8)
    assert "states" not in pairs and not torch.equal(states, pairs["x"])            # in an order of its own
    assert all(any(torch.equal(state, x) and row == asked for x, asked in zip(pairs["x"], pairs["condition"],
                                                                               strict=True))
               for state, row in zip(states, rows, strict=True))  # fmt: skip
    train = EncodedSet(world.folder("encode")).prompt_table().rows("train")
    assert set(rows.tolist()) <= set(train.tolist())


def test_a_recipe_that_needs_no_data_is_given_none(world):
    of_recipe(world, "tdm")
    assert world.run("trajectories") == {"samples": 0, "needs": "nothing"}
