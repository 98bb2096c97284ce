"""What the settings bring in from outside the pipeline: images, prompts, a teacher, a recipe file. No torch here."""

from __future__ import annotations

from pathlib import Path

from tasks.config.schema import Settings


def outside_paths(settings: Settings, root: Path) -> dict[str, Path | None]:
    """Paths by name, below the checkout `root` where relative; None for what is not used.

    Names: images, prompts, teacher, encoders (the teacher but for the weights of its denoiser), recipe.
    """
    teacher, recipe, prompts = settings.teacher.given, settings.distill.recipe, settings.data.prompts
    return {
        "images": root / "data" / "raw" if settings.data.source == "raw" else None,
        "prompts": (root / Path(prompts).expanduser()) if prompts else None,
        "teacher": (root / Path(teacher).expanduser()) if teacher else None,
        "encoders": (root / Path(teacher).expanduser()) if teacher else None,
        "recipe": (root / Path(recipe).expanduser()) if recipe.endswith((".yaml", ".yml")) else None,
    }


def with_recipe_below(settings: Settings, root: Path) -> Settings:
    """The settings with the path of a recipe file taken from the checkout `root`, wherever the command was started."""
    recipe = outside_paths(settings, root)["recipe"]
    if recipe is None:
        return settings
    return settings.model_copy(update={"distill": settings.distill.model_copy(update={"recipe": str(recipe)})})
