"""What the chosen recipe trains on, for stages that depend on nothing else of the recipe. No torch here."""

from __future__ import annotations

from fewstep.objectives.term_settings import Needs
from fewstep.recipes import load_recipe
from tasks.config.schema import Settings


def recipe_needs(settings: Settings) -> Needs:
    """What round 1 of the chosen recipe needs: data, pairs, states, teacher. Raises SettingsError for a bad recipe."""
    return load_recipe(settings.distill.recipe).preset(settings.distill.preset).needs
