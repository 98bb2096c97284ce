"""The encode stage where a condition is an image too: what of the image, which mask, which null, and kills."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fewstep.data.images import load_split
from fewstep.families.encoded_set import EncodedSet
from fewstep.families.recorded_conditions import record_conditions, record_nulls
from fewstep.teachers import inspect_teacher
from fewstep.teachers.pipeline_loading import load_pipeline
from fewstep.util.config import parse
from tasks.config.schema import Settings
from tasks.data.image_conditions import ImageConditions
from tasks.engine import graph
from tests.fewstep.families.image_pipelines import SEEING
from tests.tasks.stages.evaluation_world import World, contents
from tests.tasks.stages.test_encode_stage import CAPTIONS, captioned

ENCODE, COUNT = graph.stage("encode"), 24


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    root: Path = tmp_path_factory.mktemp("seen")
    SEEING["inpainting"].save(root / "pipeline")
    data = {"source": "raw", "record_size": 16, "conditions": "image"}
    found = World(root / "world", data=data, images=captioned(root / "images", 32, CAPTIONS, COUNT),
                  teacher=root / "pipeline")  # fmt: skip
    found.settings = parse(Settings, found.settings.model_dump() | {"encode": {"batch": 4}}, "test")
    found.run("shard")
    found.summary = found.run("encode")
    return found


def seen(world: World) -> tuple[EncodedSet, ImageConditions]:
    encoded = EncodedSet(world.folder("encode"))
    images = {split: load_split(world.folder("shard"), split) for split in ("train", "fit", "test")}
    return encoded, ImageConditions(images, [encoded.family.images], world.settings.seed)


def test_a_row_is_what_the_pipeline_makes_of_text_image_and_mask_and_each_has_a_null(world):
    encoded, images = seen(world)
    assert world.summary["prompts"] == world.summary["nulls"] == COUNT
    table = encoded.table()
    assert table.nulls.tolist() == list(range(COUNT, 2 * COUNT))
    pipe, rows = load_pipeline(inspect_teacher(world.outside["teacher"])), [0, 5, 17]
    given = {"prompt": [encoded.prompts[row] for row in rows], **images.of(rows)}
    wanted = record_conditions(pipe, encoded.family, given, 3, images.seeds(rows))
    nulls = record_nulls(pipe, encoded.family, given, 3, images.seeds(rows))
    found, without = table.read(torch.tensor(rows)), table.read(table.nulls[rows])
    for name in wanted:
        assert torch.equal(found[name], wanted[name]) and torch.equal(without[name], nulls[name]), name
    assert torch.equal(found["joined"], without["joined"])      # the text is taken away, the image is not
    assert not torch.equal(found["encoder_hidden_states"], without["encoder_hidden_states"])


def test_masks_are_rectangles_of_seed_and_row_alone(world):
    _, images = seen(world)
    masks = [np.asarray(mask) for mask in images.of(range(COUNT))["mask_image"]]
    again = ImageConditions(images._images, images.wanted, images.seed).of([7])["mask_image"][0]
    assert np.array_equal(masks[7], np.asarray(again))
    other = ImageConditions(images._images, images.wanted, images.seed + 1).of([7])["mask_image"][0]
    assert not np.array_equal(masks[7], np.asarray(other))
    for mask in masks:
        tall, wide = (int((mask == 255).any(axis=axis).sum()) for axis in (1, 0))
        assert 8 <= tall <= 27 and 8 <= wide <= 27 and int((mask == 255).sum()) == tall * wide
    assert len({mask.tobytes() for mask in masks}) > COUNT // 2


def test_a_killed_encoding_continues_with_the_same_bytes(world, monkeypatch):
    monkeypatch.setattr("tasks.stages.encode.UNIT", 16)
    straight = world.context("encode", "straight")
    for unit in ENCODE.units(straight):
        ENCODE.run_unit(straight, unit)
    ENCODE.finish(straight)
    first = world.context("encode", "killed")
    done = ENCODE.units(first)
    assert len(done) > 4
    for unit in done[1:4]:
        ENCODE.run_unit(first, unit)
    again = world.context("encode", "killed")
    for unit in ENCODE.units(again):
        ENCODE.run_unit(again, unit)
    ENCODE.finish(again)
    assert contents(again.out) == contents(straight.out)
