from pathlib import Path

import pytest

from fewstep.recipes import Overrides, load_recipe
from tasks.config import params_file
from tests.closure import ROOT

FILES = sorted((ROOT / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_params_are_understood_and_their_recipe_takes_them(path: Path):
    settings = params_file.load(path)
    own = Overrides(**settings.distill.model_dump(include=set(Overrides.model_fields)))
    recipe = load_recipe(settings.distill.recipe).override(own)
    assert recipe.student.steps == settings.distill.steps == settings.evaluate.steps[0]
    assert settings.name == path.stem and settings.teacher.given
