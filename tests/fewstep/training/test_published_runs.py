"""What a paper sets beyond rates and batches trains: two cycles of every recipe under it, with finite weights."""

import pytest
import torch

from fewstep.recipes import Overrides, load_recipe, recipe_names
from tests.fewstep.training.small import BATCH, finish, run

BEYOND = {"student", "terms", "inputs", "guidance"}


@pytest.mark.parametrize("name", [name for name in recipe_names() if BEYOND & load_recipe(name).published.sets.keys()])
def test_a_recipe_trains_as_published(name, tmp_path):
    recipe = load_recipe(name).preset("published").override(Overrides(batch=BATCH, warmup=0.0))
    cycle = max(sum(own.turns.values()) for own in recipe.rounds)
    weights = finish(run(recipe, tmp_path, images=2 * cycle * len(recipe.rounds) * BATCH))
    assert weights and all(torch.isfinite(value).all() for value in weights.values())
