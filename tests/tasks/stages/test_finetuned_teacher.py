"""A given teacher that the teacher stage trains further: it learns, resumes to the same bytes, and stays a pipeline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.randomness import noise
from fewstep.objectives.denoising.loss import own_error
from fewstep.teachers import inspect_teacher, load_teacher
from fewstep.teachers.pipeline_loading import load_pipeline
from fewstep.util.config import parse
from tasks.config.schema import Settings
from tasks.data.encoded_inputs import ready, training_data
from tasks.engine import graph
from tests.tasks.stages.evaluation_world import World, contents
from tests.tasks.stages.test_encode_stage import made

STAGE = graph.stage("teacher")
TUNED = {"images": 320, "batch": 8, "lr": 2e-3, "ema": 0.0}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    found = made(tmp_path_factory.mktemp("finetuned"), "sd")
    found.run("shard")
    found.run("encode")
    found.taken = outcome(found, "taken")
    found.settings = tuned(found, **TUNED)
    found.tuned = outcome(found, "tuned")
    return found


def outcome(world: World, work: str) -> Path:
    """What the stage makes, for later: the next run replaces the published folder."""
    world.run("teacher", work=work)
    return Path(shutil.copytree(world.folder("teacher"), world.root / "outcomes" / work))


def tuned(world: World, **chosen: object) -> Settings:
    data = world.settings.model_dump()
    return parse(Settings, data | {"teacher": data["teacher"] | {"finetune": chosen}}, "test")


def error(world: World, folder: Path) -> float:
    """Of a teacher's own prediction over data, noise and times."""
    context = world.context("teacher")
    teacher: Denoiser = ready(context, load_teacher(folder))
    x, rows = training_data(context).batch(5, 0, 32)
    times = torch.linspace(0.1, 0.9, 32, dtype=torch.float64) * teacher.process.t_max
    drawn = noise(5, "held-out", torch.arange(32), x.shape[1:])
    with torch.no_grad():
        found = teacher.predict(teacher.process.add_noise(x, drawn, times), times, rows)
    return float(own_error(teacher, found, x, drawn, times).mean())


def test_it_learns_and_all_else_is_that_of_the_given_folder(world):
    before, after = world.taken, world.tuned
    assert error(world, after) < 0.8 * error(world, before)
    first, second = contents(before), contents(after)
    assert {name for name in first if first[name] != second.get(name)} == {"unet/diffusion_pytorch_model.safetensors"}
    pipe = load_pipeline(inspect_teacher(after))
    assert type(pipe).__name__ == "StableDiffusionPipeline" and pipe.unet.dtype == torch.float32


def test_a_training_that_was_cut_off_goes_on_to_the_same_bytes(world, monkeypatch):
    context = world.context("teacher", "cut")
    context.checkpoint_images = 64

    class Cut(Exception):
        pass

    def until(done: int, total: int, **_: object) -> None:
        if done >= 160:
            raise Cut

    monkeypatch.setattr(context, "progress", until)
    with pytest.raises(Cut):
        STAGE.run_unit(context, "train")
    assert any((context.scratch / "checkpoints").iterdir())
    assert contents(outcome(world, "cut")) == contents(world.tuned)


def test_it_is_in_the_key_and_a_teacher_taken_as_it_is_keeps_its_own(world):
    data = world.settings.model_dump()
    as_it_is = parse(Settings, data | {"teacher": data["teacher"] | {"finetune": None}}, "test")
    assert "finetune" not in STAGE.resolve(as_it_is).model_dump()
    resolved = STAGE.resolve(world.settings)
    assert json.loads(resolved.model_dump_json())["finetune"]["images"] == 320
    assert STAGE.units(world.context("teacher", "fresh")) == ["train", "check"] and STAGE.terms(resolved)
