"""The settings that a system was published with, as far as a recipe takes them, and the rest as notes. Torch-free."""

from typing import Annotated, Any, Literal

from pydantic import Field

from fewstep.recipes.training_settings import Inputs
from fewstep.util.config import Strict
from fewstep.util.number_types import Positive

Preset = Literal["small", "published"]
"""small: a recipe's own settings, for small networks and short runs. published: those of its paper over them."""


class Published(Strict):
    """What the paper sets; None, or nothing: as in the recipe.

    steps: of the student. inputs: of every round. guidance: of the teacher, wherever a term guides it or could by one
    scale; not of a round whose teacher is a student. weights: of the terms of this name. turns: that a role takes in a
    cycle, in the rounds where it has one. role_lr: learning rate of a network beside the student.
    student: over the recipe's own section, and terms: over the terms of this name, setting by setting (times, a range
    of guidance, the decay of a target, the rank of adapters). What has a `kind` is replaced as a whole. Their types are
    those of what they are put over (parse_recipe). notes: for the reader alone.
    """

    optimiser: Literal["adamw", "radam"] | None = None
    lr: Positive | None = None
    schedule: Literal["constant", "cosine", "linear"] | None = None
    batch: Annotated[int, Field(ge=1)] | None = None
    ema: Annotated[float, Field(ge=0, lt=1)] | None = None
    steps: Annotated[int, Field(ge=1, le=64)] | None = None
    inputs: Inputs | None = None
    guidance: float | None = None
    student: dict[str, Any] = {}
    terms: dict[str, dict[str, Any]] = {}
    weights: dict[str, Positive] = {}
    turns: dict[str, Annotated[int, Field(ge=1)]] = {}
    role_lr: dict[str, Positive] = {}
    notes: dict[str, str | int | float] = {}

    @property
    def sets(self) -> dict[str, Any]:
        """What is set, by name; the notes are not."""
        return self.model_dump(mode="json", exclude_defaults=True, exclude={"notes"})

    def over(self, recipe: dict[str, Any]) -> None:
        """Puts these settings over those of a recipe as plain data with all defaults, in place.

        Raises ValueError, naming it, for a term or a role that the recipe has not.
        """
        for section, key, value in (
            ("optimiser", "kind", self.optimiser), ("optimiser", "lr", self.lr),
            ("optimiser", "schedule", self.schedule), ("training", "batch", self.batch), ("training", "ema", self.ema),
            ("student", "steps", self.steps),
        ):  # fmt: skip
            if value is not None:
                recipe[section][key] = value
        _put(recipe["student"], self.student)
        for own in recipe["rounds"] if self.inputs is not None else ():
            own["inputs"] = self.inputs
        terms = [term for own in recipe["rounds"] for term in own["terms"]]
        for name, changes in self.terms.items():
            for term in _some((term for term in terms if term["term"] == name), f"terms.{name}"):
                _put(term, changes)
        for name, weight in self.weights.items():
            for term in _some((term for term in terms if term["term"] == name), f"weights.{name}"):
                term["weight"] = weight
        for role, turns in self.turns.items():
            for own in _some((own for own in recipe["rounds"] if role in own["turns"]), f"turns.{role}"):
                own["turns"][role] = turns
        for role, rate in self.role_lr.items():
            for term in _some((term for term in terms if isinstance(term.get(role), dict)), f"role_lr.{role}"):
                term[role]["lr_scale"] = rate / recipe["optimiser"]["lr"]
        if self.guidance is not None:
            rounds = [own for own in recipe["rounds"] if own["teacher"] != "previous"]
            guided = (part for own in rounds for term in own["terms"] for part in _guided(term))
            for part in _some(guided, "guidance"):
                part["guidance"] = self.guidance


def _guided(term: dict[str, Any]) -> list[dict[str, Any]]:
    """The term, or the part of it that lets the teacher take steps, where either is guided by one scale."""
    parts = [term, term.get("points"), term.get("hop") if term.get("at") == "hops" else None]
    return [part for part in parts if isinstance(part, dict) and "guidance" in part]


def _put(over: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(over.get(key), dict) and "kind" not in value:
            _put(over[key], value)
        else:
            over[key] = value


def _some(found: Any, what: str) -> list[Any]:
    listed = list(found)
    if not listed:
        raise ValueError(f"published.{what}: no term of the recipe has it")
    return listed
