"""What is worth knowing of settings that hold, before any work: it stops nothing. No torch here."""

from __future__ import annotations

from pathlib import Path

from fewstep.recipes import Recipe
from fewstep.teachers.inspection import inspect_teacher
from tasks.config.chosen_recipe import chosen_recipe
from tasks.config.outside import outside_paths, with_recipe_below
from tasks.config.schema import Settings

LARGE = 50_000_000
"""Parameters of a teacher above which settings and machines for small networks do not serve."""


def advice(root: Path, settings: Settings) -> list[str]:
    """A line for everything that the user of a given teacher would rather know now than when it is trained on."""
    outside = outside_paths(settings, root)
    given = outside["teacher"]
    if given is None:
        return []
    distill = with_recipe_below(settings, root).distill
    recipe = chosen_recipe(distill)
    published = distill.preset == "published" and bool(recipe.published.sets)
    line = rate_of_small_networks(recipe, published or distill.lr is not None,
                                  inspect_teacher(given, settings.teacher.variant).parameters)
    lines = [] if line is None else [line]
    if recipe.needs.data and outside["prompts"] is not None and outside["images"] is None:
        lines.append(f"recipe {recipe.name} trains on data, and there are prompts and no images: "
                     f"{settings.trajectories.count:,} samples of the teacher stand for them (trajectories.count)")
    return lines


def rate_of_small_networks(recipe: Recipe, chosen: bool, parameters: int) -> str | None:
    """That a teacher of so many parameters is distilled at a recipe's own rate, which is for small networks; None where
    it is small itself, or another rate was chosen."""
    if chosen or parameters <= LARGE:
        return None
    return (f"recipe {recipe.name} is set up for small networks, and this teacher has {parameters:,} parameters: set "
            f"distill.preset: published where its paper tells more (`fewstep recipes show {recipe.name} --preset "
            "published`), or distill.lr and distill.batch")
