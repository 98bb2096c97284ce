from examples.emoji.settings import SIZES, STUDENT_STEPS
from fewstep.recipes import Overrides, load_recipe
from tasks.config import params_file
from tests.closure import ROOT


def test_emoji_yaml_distils_the_teacher_of_make_emoji_in_as_many_steps():
    settings = params_file.load(ROOT / "examples/emoji.yaml")
    own = Overrides(**settings.distill.model_dump(include=set(Overrides.model_fields)))
    recipe = load_recipe(settings.distill.recipe).override(own)
    assert recipe.student.steps == STUDENT_STEPS == settings.distill.steps
    assert settings.evaluate.steps == (STUDENT_STEPS,)
    assert settings.teacher.given == ".fewstep/emoji-full/teacher"
    assert f"--objects {SIZES['full'].objects} " in (ROOT / "examples/emoji.yaml").read_text()
