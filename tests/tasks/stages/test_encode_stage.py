"""The encode stage on tiny pipelines: rows of conditions, states of images, what is refused before any work, kills."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from fewstep.data.images import load_split
from fewstep.diffusion.randomness import generator
from fewstep.families.codec import Codec
from fewstep.families.encoded_set import EncodedSet
from fewstep.families.recorded_conditions import record_conditions, record_nulls
from fewstep.teachers import inspect_teacher
from fewstep.teachers.pipeline_loading import load_pipeline
from fewstep.trajectories import open_set
from fewstep.util.config import parse
from fewstep.util.errors import NonFinite, SettingsError
from tasks.config.schema import Settings
from tasks.engine import graph
from tasks.stages.distill import data_of
from tests.fewstep.families.pipelines import KINDS
from tests.tasks.stages.evaluation_world import World, contents

ENCODE = graph.stage("encode")
CAPTIONS = ["a red apple", "two blue cars on a road", "a small green tree", "person running"]
SIZES = {"height", "width", "num_frames", "max_sequence_length"}


def captioned(folder: Path, size: int, captions: list[str], count: int = 48) -> Path:
    """A folder of random images with captions in turn."""
    folder.mkdir()
    pixels = torch.randint(0, 256, (count, size, size, 3), generator=generator(0, "images"), dtype=torch.uint8)
    with (folder / "captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["name", "caption"])
        for number, image in enumerate(pixels):
            Image.fromarray(image.numpy()).save(folder / f"{number}.png")
            rows.writerow([f"{number}.png", captions[number % len(captions)]])
    return folder


def made(tmp_path: Path, kind: str, captions: list[str] = CAPTIONS, size: int = 32, count: int = 48, **encode) -> World:
    """A world with images in shards and a given teacher, nothing encoded yet."""
    KINDS[kind].save(tmp_path / "pipeline")
    images = captioned(tmp_path / "images", size, captions, count)
    world = World(tmp_path / "world", data={"source": "raw", "record_size": 16}, images=images,
                  teacher=tmp_path / "pipeline")  # fmt: skip
    return set_to(world, kind, **encode)


def set_to(world: World, kind: str, **encode) -> World:
    """Settings of `encode`, by default those that the tiny pipeline is recorded with."""
    known = KINDS[kind].arguments
    chosen = {name: value for name, value in known.items() if name in SIZES}
    chosen["arguments"] = {name: value for name, value in known.items() if name not in SIZES}
    changed = {
        "encode": {**chosen, **encode},
        "trajectories": {"count": 16, "steps": 2, "record_size": 8, "guidance": 2.0},
        "teacher": {"source": world.settings.teacher.source,
                    "check": {"samples": 16, "steps": 2, "max_distance_ratio": 1e9}},
    }
    world.settings = parse(Settings, world.settings.model_dump() | changed, "test")
    return world


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    found = made(tmp_path_factory.mktemp("encode"), "sd")
    found.run("shard")
    found.summary = found.run("encode")
    return found


def test_rows_are_what_the_pipeline_makes_of_each_text_and_the_null_row_follows(world):
    encoded, pipe = EncodedSet(world.folder("encode")), load_pipeline(inspect_teacher(world.outside["teacher"]))
    assert sorted(encoded.prompts) == sorted(CAPTIONS) and world.summary["prompts"] == 4
    table = encoded.table()
    assert table.count == 4 and table.size == 5 and table.nulls.tolist() == [4] * 4
    rows = table.gather(torch.arange(5))
    for name, value in record_conditions(pipe, encoded.family, {"prompt": encoded.prompts}, 4).items():
        assert torch.allclose(rows[name][:4], value, atol=1e-5)
    null = record_nulls(pipe, encoded.family, {"prompt": encoded.prompts[:1]}, 1)
    assert all(torch.equal(rows[name][4:], value) for name, value in null.items())


def test_its_bytes_are_told_before_any_work(world):
    listener = world.listener = type(world.listener)()
    context = world.context("encode", "told")
    ENCODE.units(context)
    encoded = EncodedSet(world.folder("encode"))
    states = sum(len(encoded.states(split)) for split in encoded.description.samples)
    (told,) = listener.notes
    assert told.startswith(f"5 rows of conditions and {states} images as states: ")
    assert " GB on disk, of 64 GB that encode.max_bytes allows" in told
    size = float(told.partition(": ")[2].split()[0]) * 1e9
    assert size < world.summary["bytes"] < 1.5 * size       # files, indices and texts beside the tensors
    assert not listener.progress


def test_states_are_the_encoded_images_with_the_rows_of_their_captions(world):
    encoded, pipe = EncodedSet(world.folder("encode")), load_pipeline(inspect_teacher(world.outside["teacher"]))
    images, states = load_split(world.folder("shard"), "train"), encoded.states("train")
    assert len(states) == len(images) > 10 and states.shape == (4, 16, 16)
    wanted = Codec(pipe, encoded.family).encode(images.images([0, 5]))
    assert torch.allclose(states.images([0, 5]), wanted, atol=1e-5)
    assert [encoded.prompts[row] for row in states.labels.tolist()] == images.captions
    x, rows = states.batch(0, 0, 8)
    assert x.shape == (8, 4, 16, 16) and rows.max() < 4


def test_the_teacher_is_linked_and_its_trajectories_are_of_every_prompt_alike(world):
    world.run("teacher")
    linked = world.folder("teacher")
    assert json.loads((linked / "fewstep.json").read_bytes())["family"]["pipeline"] == "StableDiffusionPipeline"
    world.run("trajectories")
    pairs = open_set(world.folder("trajectories"))
    batch = pairs.batch(0, 0, 16)
    assert batch["x"].shape == (16, 4, 16, 16)
    assert torch.bincount(batch["condition"], minlength=4).tolist() == [4, 4, 4, 4]


def test_nothing_stands_for_the_data_where_there_are_images(world, monkeypatch):
    data_alone = parse(Settings, world.settings.model_dump() | {"distill": {"recipe": "dmd2"}}, "test")
    monkeypatch.setattr(world, "settings", data_alone)
    context, stage = world.context("trajectories", "for-data"), graph.stage("trajectories")
    assert context.settings.needs == "samples" and stage.units(context) == []
    assert stage.finish(context).samples == 0
    data, images = data_of(world.context("distill")), load_split(world.folder("shard"), "train")
    assert len(data) == len(images)


def test_a_killed_encoding_continues_with_the_same_bytes(world):
    straight = world.context("encode", "straight")
    for unit in ENCODE.units(straight):
        ENCODE.run_unit(straight, unit)
    ENCODE.finish(straight)
    first = world.context("encode", "killed")
    done = ENCODE.units(first)[0]
    ENCODE.run_unit(first, done)
    again = world.context("encode", "killed")
    assert done not in ENCODE.units(again)
    for unit in ENCODE.units(again):
        ENCODE.run_unit(again, unit)
    ENCODE.finish(again)
    assert contents(again.out) == contents(straight.out)


def test_the_key_is_that_of_encoders_and_autoencoder_not_of_the_denoiser(world, tmp_path):
    from tasks.engine.stage_key import outside_digest
    from tasks.storage.file_io import StatTable

    table, folder = StatTable(tmp_path / "stat.sqlite"), world.outside["teacher"]
    before = outside_digest("encoders", folder, table)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    kept = weights.read_bytes()
    try:
        weights.write_bytes(kept[:-4] + b"\0\0\0\1")
        assert outside_digest("encoders", folder, table) == before != outside_digest("teacher", folder, table)
    finally:
        weights.write_bytes(kept)
    config = folder / "vae" / "config.json"
    config.write_text(config.read_text().replace("0.18215", "0.2"))
    assert outside_digest("encoders", folder, table) != before


@pytest.mark.parametrize("kind, size", [("sdxl", 32), ("sd3", 32), ("flux", 32), ("sana", 32), ("pixart", 16)])
def test_other_families_go_through_the_same_stage(tmp_path, kind, size):
    world = made(tmp_path, kind, size=size, max_truncated_share=1.0)
    world.run("shard")
    world.run("encode")
    encoded = EncodedSet(world.folder("encode"))
    assert encoded.states("test").shape == encoded.family.state and encoded.table().size == 5


def test_classes_of_a_latent_teacher_need_no_table(tmp_path):
    KINDS["dit"].save(tmp_path / "pipeline")
    folder = tmp_path / "images"
    for number in range(36):
        path = folder / str(number % 3) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (number * 7, 0, 0)).save(path)
    world = World(tmp_path / "world", data={"source": "raw"}, images=folder, teacher=tmp_path / "pipeline")
    set_to(world, "dit").run("shard")
    assert world.run("encode")["prompts"] == 0
    encoded = EncodedSet(world.folder("encode"))
    assert encoded.table() is None and set(encoded.states("train").labels.tolist()) <= {0, 1, 2}


def refused(world: World, *words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        ENCODE.check(world.context("encode", "refused"))
    told = f"{caught.value} {caught.value.hint}"
    assert all(word in told for word in words), told
    assert not list((world.root / "work" / "refused" / "out").iterdir())


def test_what_cannot_be_encoded_is_refused_before_any_work(world):
    for changes, words in (
        ({"max_bytes": 1000}, ("encode.max_bytes allows 1e-06 GB", "bfloat16")),
        ({"height": 16, "width": 16}, ("(3, 32, 32) become latents", "encode.height")),
        ({"height": 17, "width": 17}, ("divisible by 8",)),
        ({"arguments": {"colour": "red"}}, ("colour",)),
    ):
        refused(set_to(world, "sd", **changes), *words)
    set_to(world, "sd")


def test_long_captions_are_counted_and_refused_above_the_share(tmp_path):
    world = made(tmp_path, "sd", captions=[*CAPTIONS, "a red apple " * 20])
    world.run("shard")
    refused(world, "1 of 5 prompts are longer than the 16 tokens", "'a red apple a red", "encode.max_truncated_share")
    set_to(world, "sd", max_truncated_share=0.5)
    world.run("encode")
    assert any("1 of 5 prompts are longer" in text for text in world.listener.warnings)


def test_images_without_captions_are_refused_by_a_teacher_of_texts(tmp_path):
    KINDS["sd"].save(tmp_path / "pipeline")
    for number in range(24):
        path = tmp_path / "images" / str(number % 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (number * 9, 0, 0)).save(path)
    world = World(tmp_path / "world", data={"source": "raw"}, images=tmp_path / "images", teacher=tmp_path / "pipeline")
    world.run("shard")
    refused(world, "conditional on texts", "fewstep data add")


def test_a_state_that_is_not_finite_names_the_image(tmp_path, monkeypatch):
    world = made(tmp_path, "sd")
    world.run("shard")
    monkeypatch.setattr(Codec, "encode", lambda self, x: torch.full((len(x), *self.family.state), float("nan")))
    context = world.context("encode")
    with pytest.raises(NonFinite, match=r"image '\d+\.png' \(number 0 of train\)"):
        ENCODE.run_unit(context, "train-00000")
