"""What the settings bring in from outside the pipeline: images, prompts, a teacher, a recipe file. No torch here."""

from __future__ import annotations

import os
from pathlib import Path

from fewstep.util.errors import SettingsError
from tasks.config.schema import Settings


def outside_paths(settings: Settings, root: Path) -> dict[str, Path | None]:
    """Paths by name, below the checkout `root` where relative; None for what is not used.

    Names: images, prompts, teacher, encoders (the teacher but for the weights of its denoiser), recipe.
    Raises SettingsError for a value that no path can be.
    """
    recipe, teacher = settings.distill.recipe, settings.teacher
    given = _path(root, "teacher.path" if teacher.path else "teacher.source", teacher.given)
    return {
        "images": root / "data" / "raw" if settings.data.source == "raw" else None,
        "prompts": _path(root, "data.prompts", settings.data.prompts or None),
        "teacher": given,
        "encoders": given,
        "recipe": _path(root, "distill.recipe", recipe if recipe.endswith((".yaml", ".yml")) else None),
    }


def _path(root: Path, key: str, value: str | None) -> Path | None:
    """The path that a key names; whether something is there is asked later, of what it should be."""
    if value is None:
        return None
    try:
        path = root / Path(value).expanduser()
        os.stat(path)
        return path
    except (FileNotFoundError, NotADirectoryError):
        return path
    except OSError as error:        # too long, a link to itself, in a folder that is closed to us
        raise SettingsError(f"{key}: {_brief(value)}: {error.strerror}") from None
    except (ValueError, RuntimeError) as error:     # a NUL; the home of a user that is not known
        raise SettingsError(f"{key}: {_brief(value)} is no path: {error}") from None


def _brief(value: str) -> str:
    return value if len(value) <= 200 else f"{value[:200]}…"


def with_recipe_below(settings: Settings, root: Path) -> Settings:
    """The settings with the path of a recipe file taken from the checkout `root`, wherever the command was started."""
    recipe = outside_paths(settings, root)["recipe"]
    if recipe is None:
        return settings
    return settings.model_copy(update={"distill": settings.distill.model_copy(update={"recipe": str(recipe)})})
