"""Recipes by name or from a file. Torch-free."""

import difflib
from pathlib import Path
from typing import Any

from fewstep.recipes.recipe import Recipe
from fewstep.util.config import parse
from fewstep.util.errors import SettingsError
from fewstep.util.plain_data import NotPlain, from_yaml

FOLDER = Path(__file__).parent


def recipe_names() -> list[str]:
    """Names of the recipes that come with fewstep, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def parse_recipe(data: Any, source: str) -> Recipe:
    """A recipe from plain data; `source` names it. Raises SettingsError (an unknown key: with the nearest).

    That its paper's settings fit is looked at here: later they may be under other ones, which they need not go with.
    """
    if not isinstance(data, dict):
        raise SettingsError(f"{source}: expected a mapping with `rounds`, got {type(data).__name__}")
    recipe = parse(Recipe, data, source)
    recipe.preset("published")
    return recipe


def load_recipe(name_or_path: str | Path) -> Recipe:
    """The recipe of this name, or in the YAML file at this path (a path has a .yaml or .yml ending).

    Raises SettingsError if there is none (naming the nearest name) or if it does not parse.
    """
    if isinstance(name_or_path, Recipe):
        return name_or_path
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        names = recipe_names()
        if str(name_or_path) not in names:
            near = difflib.get_close_matches(str(name_or_path), names, n=1, cutoff=0.0)
            raise SettingsError(
                f"unknown recipe {str(name_or_path)!r}; did you mean '{near[0]}'? Known recipes: {', '.join(names)}"
            )
        path = FOLDER / f"{name_or_path}.yaml"
    try:
        data = from_yaml(path.read_bytes())
    except FileNotFoundError:
        raise SettingsError(f"recipe file {path} does not exist") from None
    except (NotPlain, OSError, ValueError) as error:
        raise SettingsError(f"{path.name}: not a YAML file: {error}") from error
    if isinstance(data, dict):
        data = {"name": path.stem, **data}
    return parse_recipe(data, path.name)
