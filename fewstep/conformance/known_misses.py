"""Cells that are known to miss their bar, and what was found: a miss is listed, never hidden."""

from __future__ import annotations

from pathlib import Path

from fewstep.conformance.problems import Problem
from fewstep.recipes import load_recipe
from fewstep.util.errors import SettingsError
from fewstep.util.plain_data import NotPlain, from_yaml

FILE = Path(__file__).parent / "known_misses.yaml"
DIGITS = "digits"
"""Beside the problems: what was found of recipes that stand far from the others in docs/digits.md."""


def known_misses(path: Path = FILE) -> dict[tuple[str, str], str]:
    """What was found of each known miss, by (recipe, problem).

    Raises SettingsError for a recipe or problem that does not exist, or a miss without what was found.
    """
    try:
        listed = from_yaml(path.read_bytes()) or {}
    except NotPlain as error:
        raise SettingsError(f"{path}: not a YAML file: {error}") from None
    found = {(recipe, problem): why for recipe, problems in listed.items() for problem, why in problems.items()}
    for (recipe, problem), why in found.items():
        load_recipe(recipe)
        if problem != DIGITS:
            Problem(problem)
        if not isinstance(why, str) or not why.strip():
            raise SettingsError(f"{path}: {recipe} on {problem}: say what was found")
    return found


def surprises(records: list[dict], known: dict[tuple[str, str], str]) -> list[str]:
    """In words, the misses that are not listed, and what is listed but meets its bar."""
    found = []
    for record in records:
        name = f"{record['recipe']} on {record['problem']}"
        listed = (record["recipe"], record["problem"]) in known
        if record["missed"] and not listed:
            found.append(f"{name} missed: {'; '.join(record['missed'])}; list it with what was found")
        elif listed and not record["missed"]:
            found.append(f"{name} is listed as a known miss and meets its bar; take it off")
    return found
