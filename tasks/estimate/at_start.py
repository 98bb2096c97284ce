"""What is said of memory as a run begins: by arithmetic from a given teacher's file headers. No torch here."""

from __future__ import annotations

from pathlib import Path

from fewstep.teachers.inspection import inspect_teacher
from fewstep.training.memory import memory_of_networks
from tasks.config.chosen_recipe import chosen_recipe
from tasks.config.outside import outside_paths, with_recipe_below
from tasks.config.schema import Settings


def networks_at_start(root: Path, settings: Settings) -> tuple[str, int, int, str] | None:
    """The recipe, the parameters of a given teacher, the bytes that the run's networks take, and of what: of the
    device, or of several together. None for a teacher that is trained here, which is small."""
    given = outside_paths(settings, root)["teacher"]
    if given is None:
        return None
    distill = with_recipe_below(settings, root).distill
    recipe, parameters = chosen_recipe(distill), inspect_teacher(given, settings.teacher.variant).parameters
    where = "the device" if settings.compute.parallel == "replicate" else "the devices together"
    return recipe.name, parameters, memory_of_networks(recipe, parameters, apart=distill.ema_device == "cpu"), where
