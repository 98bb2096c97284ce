"""The recipe that params.yaml chooses, as it will be run. No torch here."""

from __future__ import annotations

from fewstep.recipes import Overrides, Recipe, load_recipe
from tasks.config.schema import Distill


def chosen_recipe(distill: Distill) -> Recipe:
    """The recipe with its preset and the overrides of params.yaml. Raises SettingsError for one that is not there."""
    return load_recipe(distill.recipe).preset(distill.preset).override(overrides_of(distill))


def overrides_of(distill: Distill) -> Overrides:
    """What params.yaml sets in the place of the recipe's own settings."""
    return Overrides(**{name: getattr(distill, name) for name in Overrides.model_fields})
