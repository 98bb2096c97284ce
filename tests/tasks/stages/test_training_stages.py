"""The teacher and distill stages, driven as the runner drives them: resuming, checks that fail, a given teacher."""

import json
import shutil

import pytest
import torch

from fewstep.students.export import load_student
from fewstep.teachers import load_teacher, new_unet, save_teacher
from fewstep.teachers.sampling_check import check_teacher
from fewstep.trajectories import open_set
from fewstep.util.config import parse
from fewstep.util.errors import SettingsError, StageFailed
from tasks.config.schema import Settings
from tasks.engine import graph
from tests.tasks.stages.evaluation_world import Listener, World, contents

TINY = {
    "teacher": {
        "images": 640, "batch": 32, "channels": [8], "check": {"samples": 64, "steps": 4, "max_distance_ratio": 20},
    },
    "trajectories": {"count": 32, "steps": 2, "record_size": 16},
    "distill": {"recipe": "kd", "images": 640, "batch": 32},
}  # fmt: skip

TEACHER, DISTILL = graph.stage("teacher"), graph.stage("distill")


class Stopped(Exception):
    pass


class Stopping(Listener):
    """Interrupts the stage at so many images."""

    def __init__(self, images: int):
        super().__init__()
        self.images = images

    def stage_progress(self, stage, done, total, unit, metrics, step):
        super().stage_progress(stage, done, total, unit, metrics, step)
        if unit == "images" and done >= self.images:
            raise Stopped


def set_to(world: World, **changes) -> World:
    """Settings over TINY, one section at a time."""
    world.settings = parse(Settings, {name: {**TINY.get(name, {}), **changes.get(name, {})} for name in TINY}, "test")
    return world


def published(world: World, name: str, work: str | None = None) -> dict[str, bytes]:
    """What a stage makes, without disturbing what is published."""
    ctx = world.context(name, work)
    ctx.checkpoint_images = 128
    stage = graph.stage(name)
    stage.check(ctx)
    for unit in stage.units(ctx):
        stage.run_unit(ctx, unit)
    stage.finish(ctx)
    return contents(ctx.out)


def interrupted(world: World, name: str, work: str, at: int) -> None:
    ctx = world.context(name, work)
    ctx.checkpoint_images, ctx.observer = 128, Stopping(at)
    stage = graph.stage(name)
    with pytest.raises(Stopped):
        for unit in stage.units(ctx):
            stage.run_unit(ctx, unit)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    torch.set_num_threads(1)
    made = set_to(World(tmp_path_factory.mktemp("training")))
    made.run("shard")
    made.summary = made.run("teacher")
    made.run("trajectories")
    return made


def test_the_teacher_is_a_checked_pipeline_folder(world):
    info = load_teacher(world.folder("teacher"))
    assert info.num_classes == 10 and info.null_class == 10 and info.prediction_type == "v_prediction"
    assert world.summary["terminal_snr"] < 1e-6
    assert 0 < world.summary["quality"]["ratio"] < 20
    assert not list(world.folder("teacher").rglob("*.bin"))


def test_a_teacher_with_groups_is_guided_by_each_condition_and_its_student_in_one_call(tmp_path):
    recipe = tmp_path / "multi.yaml"
    recipe.write_text("target: guidance\nstudent: {steps: 2}\nrounds:\n  - terms:\n"
                      "      - {term: output_matching, guidance: [1.5, 3], source: pairs}\n")
    odd = set_to(World(tmp_path / "odd"), teacher={"groups": [[0, 17]]})
    odd.run("shard")
    with pytest.raises(SettingsError, match="teacher.groups: a group is of two or more of the 10 classes"):
        TEACHER.check(odd.context("teacher"))
    made = set_to(World(tmp_path / "world"), teacher={"groups": [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]},
                  trajectories={"guidance": [1.5, 3]}, distill={"recipe": str(recipe)})  # fmt: skip
    for stage in ("shard", "teacher", "trajectories", "distill"):
        made.run(stage)
    source, student = load_teacher(made.folder("teacher")), load_student(made.folder("distill"))
    x, labels = torch.randn(2, *source.sample_shape), torch.tensor([3, 7])
    parts = [source.x0(x, 0.5, condition) for condition in (None, torch.tensor([11, 12]), labels)]
    guided = parts[0] + 1.5 * (parts[1] - parts[0]) + 3 * (parts[2] - parts[1])
    assert torch.allclose(source.x0(x, 0.5, labels, (1.5, 3.0)), guided, atol=1e-4)
    assert student.denoiser.groups == source.groups and student.sample(x, condition=labels).isfinite().all()
    assert open_set(made.folder("trajectories")).fields["evaluations"] == 3 * 2


@pytest.mark.parametrize(
    ("stage", "recipe", "at"), [("teacher", "kd", 320), ("distill", "kd", 320), ("distill", "reflow", 480)]
)
def test_a_stage_interrupted_and_continued_gives_the_same_bytes(world, stage, recipe, at):
    set_to(world, distill={"recipe": recipe})
    straight = published(world, stage, f"{stage}-{recipe}-straight")
    interrupted(world, stage, f"{stage}-{recipe}-broken", at)
    assert published(world, stage, f"{stage}-{recipe}-broken") == straight
    assert published(world, stage, f"{stage}-{recipe}-broken") == straight  # and a second time without work
    set_to(world)


@pytest.mark.parametrize("recipe", ["kd", "reflow", "ect", "dmd2"])
def test_every_recipe_becomes_a_student_that_samples_by_class(world, recipe):
    set_to(world, distill={"recipe": recipe, "images": 384})
    world.listener.progress.clear()
    ctx = world.context("distill", f"all-{recipe}")
    DISTILL.check(ctx)
    rounds = DISTILL.units(ctx)
    assert rounds == (["round-1", "round-2"] if recipe == "reflow" else ["round-1"])
    for unit in rounds:
        DISTILL.run_unit(ctx, unit)
        assert json.loads((ctx.scratch / unit / "round.json").read_text())["round"] == unit
    assert DISTILL.units(ctx) == []
    summary = DISTILL.finish(ctx)
    assert summary.recipe == recipe and len(summary.rounds) == len(rounds)
    student = load_student(ctx.out)
    images = student.sample(torch.randn(10, 1, 8, 8), condition=torch.arange(10))
    assert images.shape == (10, 1, 8, 8) and torch.isfinite(images).all()
    done = [entry for entry in world.listener.progress if entry[1] == sum(r.images for r in summary.rounds)]
    assert done == sorted(done) and done[-1][0] == done[-1][1]
    set_to(world)


def test_a_poor_teacher_fails_the_stage_and_says_so_and_keeps_its_training(world):
    set_to(world, teacher={"check": {**TINY["teacher"]["check"], "max_distance_ratio": 0.5}})
    ctx = world.context("teacher", "poor")
    with pytest.raises(StageFailed, match="times that of real against real, allowed are 0.5"):
        for unit in TEACHER.units(ctx):
            TEACHER.run_unit(ctx, unit)
    assert list(ctx.scratch.glob("checkpoints/step-*.json"))
    set_to(world)


def test_a_teacher_that_leaves_data_visible_in_its_noise_fails(world):
    set_to(world, teacher={"check": {**TINY["teacher"]["check"], "max_terminal_snr": 1e-12}})
    ctx = world.context("teacher", "snr")
    with pytest.raises(StageFailed, match="terminal signal-to-noise ratio"):
        for unit in TEACHER.units(ctx):
            TEACHER.run_unit(ctx, unit)
    set_to(world)


def test_weights_that_are_not_finite_fail(world, tmp_path):
    own = load_teacher(world.folder("teacher"))
    with torch.no_grad():
        next(own.parameters())[0] = float("nan")
    from fewstep.data.images import load_split

    with pytest.raises(StageFailed, match="holds NaN"):
        check_teacher(own, load_split(world.folder("shard"), "train"), seed=0, max_terminal_snr=0.01,
                      **TINY["teacher"]["check"])


def given_world(world: World, folder) -> World:
    set_to(world, teacher={"source": str(folder)})
    world.outside = {"teacher": folder}
    return world


def test_a_given_teacher_is_taken_over_and_one_that_does_not_fit_is_refused(world, tmp_path):
    shutil.copytree(world.folder("teacher"), tmp_path / "saved")
    made = published(given_world(world, tmp_path / "saved"), "teacher", "given")
    assert made == {name: value for name, value in contents(world.folder("teacher")).items() if name in made}

    from fewstep.diffusion.denoiser import Denoiser
    from fewstep.diffusion.processes import VariancePreserving

    large = Denoiser(new_unet(16, 1), VariancePreserving.cosine(), "v_prediction", (1, 16, 16))
    save_teacher(large, tmp_path / "large")
    with pytest.raises(SettingsError, match=r"makes images of shape \(1, 16, 16\)"):
        TEACHER.check(given_world(world, tmp_path / "large").context("teacher", "large"))
    for weights in (tmp_path / "saved").rglob("*.safetensors"):
        weights.unlink()
    with pytest.raises(SettingsError, match="safetensors"):
        TEACHER.check(given_world(world, tmp_path / "saved").context("teacher", "none"))
    world.outside = {}
    set_to(world)


def test_overrides_reach_the_recipe_and_what_does_not_fit_is_refused(world):
    set_to(world, distill={"lr": 0.25, "ema": 0.5})
    recipe = world.context("distill", "overrides").settings.recipe
    assert (recipe.optimiser.lr, recipe.training.ema, recipe.training.batch) == (0.25, 0.5, 32)
    with pytest.raises(SettingsError, match="single step"):
        set_to(world, distill={"steps": 2})
        DISTILL.check(world.context("distill", "overrides"))
    set_to(world)
