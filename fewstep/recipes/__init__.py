"""Recipes: one YAML file per published system, over the terms of fewstep/objectives. Torch-free."""

from fewstep.objectives.term_settings import Needs
from fewstep.recipes.recipe import Recipe, Round, check_needs
from fewstep.recipes.recipe_files import load_recipe, parse_recipe, recipe_names
from fewstep.recipes.training_settings import Overrides

__all__ = ["Needs", "Overrides", "Recipe", "Round", "check_needs", "load_recipe", "parse_recipe", "recipe_names"]
