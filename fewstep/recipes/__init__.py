"""Recipes: one YAML file per published system, over the terms of fewstep/terms. Torch-free."""

from fewstep.recipes.loading import load_recipe, parse_recipe, recipe_names
from fewstep.recipes.recipe import Recipe, Round, check_needs
from fewstep.recipes.settings import Overrides
from fewstep.recipes.terms import Needs

__all__ = ["Needs", "Overrides", "Recipe", "Round", "check_needs", "load_recipe", "parse_recipe", "recipe_names"]
