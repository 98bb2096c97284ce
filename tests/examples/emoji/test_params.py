import pytest

from examples.emoji.settings import SIZES, STUDENT_STEPS
from fewstep.recipes import Overrides, load_recipe
from fewstep.training.teacher_training import teacher_recipe
from tasks.config import params_file
from tests.closure import ROOT


def test_emoji_yaml_distils_the_teacher_of_make_emoji_in_as_many_steps():
    settings = params_file.load(ROOT / "examples/emoji.yaml")
    own = Overrides(**settings.distill.model_dump(include=set(Overrides.model_fields)))
    recipe = load_recipe(settings.distill.recipe).override(own)
    assert recipe.student.steps == STUDENT_STEPS == settings.distill.steps
    assert settings.evaluate.steps == (STUDENT_STEPS,)
    full, said = SIZES["full"], (ROOT / "examples/emoji.yaml").read_text()
    assert f"--objects {full.objects} --count {full.pictures} " in said


def test_emoji_yaml_trains_its_teacher_as_make_emoji_does():
    teacher, own = params_file.load(ROOT / "examples/emoji.yaml").teacher, SIZES["full"].teacher
    tuned = teacher.finetune
    assert teacher.given == ".fewstep/emoji-full/pipeline"
    assert (tuned.images, tuned.batch, tuned.lr, tuned.dropout) == (own.images, own.batch, own.lr, own.dropout)
    recipe = teacher_recipe(tuned.lr, tuned.images, tuned.batch, tuned.parts, tuned.ema, tuned.dropout)
    assert recipe.training.ema == pytest.approx(own.recipe.training.ema, abs=1e-4)
    assert (recipe.optimiser, recipe.rounds) == (own.recipe.optimiser, own.recipe.rounds)
