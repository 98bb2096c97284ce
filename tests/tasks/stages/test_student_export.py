"""What a distill stage publishes of a given pipeline's student, by distill.export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline

from fewstep.students.export import load_student
from fewstep.util.config import parse
from fewstep.util.errors import SettingsError
from tasks.config.schema import Settings
from tasks.engine import graph
from tests.tasks.stages.evaluation_world import World
from tests.tasks.stages.test_encode_stage import made

DISTILL = graph.stage("distill")
RECIPE = """summary: adapters on the teacher's pairs
status: own
student: {steps: 1, init: teacher, lora: {rank: 2}}
rounds:
  - terms:
      - {term: regression, at: noise}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    folder = tmp_path_factory.mktemp("export")
    found = made(folder, "sd")
    (folder / "adapters.yaml").write_text(RECIPE)
    found.outside["recipe"] = folder / "adapters.yaml"
    for name in ("shard", "encode", "teacher", "trajectories"):
        found.run(name)
    return found


def distilled(world: World, export: str, recipe: str | None = None) -> Path:
    """The stage's output under this export."""
    section = {"recipe": recipe or str(world.outside["recipe"]), "images": 16, "batch": 8, "export": export}
    world.settings = parse(Settings, world.settings.model_dump() | {"distill": section}, "test")
    world.run("distill")
    return world.folder("distill")


def test_the_preset_is_in_the_key_where_it_is_the_papers_and_a_large_teacher_is_told_of_it(world, monkeypatch):
    def resolved(**section):
        return DISTILL.resolve(parse(Settings, {"distill": section}, "test"))

    small, paper = resolved(recipe="dmd2"), resolved(recipe="dmd2", preset="published")
    assert "preset" not in small.model_dump(mode="json") and paper.model_dump(mode="json")["preset"] == "published"
    assert (paper.recipe.training.batch, paper.recipe.optimiser.lr) == (280, 2e-6)
    assert resolved(recipe="dmd2", preset="small") == small
    assert resolved(recipe="dmd2", preset="published", batch=16).recipe.training.batch == 16
    assert resolved(recipe="kd", preset="published") == resolved(recipe="kd")  # its paper sets nothing
    with pytest.raises(SettingsError, match="preset"):
        resolved(recipe="dmd2", preset="paper")

    def warned(recipe, preset) -> list[str]:
        section = {"images": 16, "recipe": str(recipe), "preset": preset}
        world.settings = parse(Settings, world.settings.model_dump() | {"distill": section}, "test")
        before = len(world.listener.warnings)
        DISTILL.check(world.context("distill"))
        return world.listener.warnings[before:]

    silent, telling = world.outside["recipe"], world.root / "paper.yaml"
    telling.write_text("published: {lr: 1.0e-5}\n" + RECIPE)
    assert warned(telling, "small") == []
    monkeypatch.setattr("tasks.config.advice.LARGE", 1000)
    assert ["distill.preset: published" in text for text in warned(telling, "small")] == [True]
    assert warned(telling, "published") == []
    assert len(warned(silent, "published")) == 1  # its own settings, where the paper's are not told


def test_adapters_are_published_as_the_file_that_the_stock_pipeline_loads(world):
    folder = distilled(world, "lora")
    pipe = StableDiffusionPipeline.from_pretrained(world.folder("teacher"))
    pipe.load_lora_weights(folder)
    assert pipe.get_active_adapters()
    weights = Path("unet/diffusion_pytorch_model.safetensors")
    assert (folder / weights).read_bytes() == (world.folder("teacher") / weights).read_bytes()
    assert load_student(folder).sampler.steps == 1


@pytest.mark.parametrize("export", ["pipeline", "network"])
def test_the_other_forms_hold_the_merged_network(world, export):
    folder = distilled(world, export)
    student = load_student(folder)
    assert not any("lora" in name for name, _ in student.denoiser.network.named_parameters())
    assert (folder / "vae").is_dir() == (export == "pipeline")
    assert json.loads((folder / "fewstep.json").read_text())["export"] == export


def test_a_recipe_without_adapters_is_refused_before_any_work(world):
    with pytest.raises(SettingsError, match=r"distill\.export: export 'lora' needs adapters"):
        distilled(world, "lora", "kd")


def test_students_that_leave_as_they_always_did_keep_their_key():
    plain, other = (DISTILL.resolve(parse(Settings, {"distill": section}, "test"))
                    for section in ({}, {"export": "network"}))  # fmt: skip
    assert "export" not in plain.model_dump(mode="json") and other.model_dump(mode="json")["export"] == "network"
    assert DISTILL.parse(plain.model_dump(mode="json"), "manifest.json") == plain
