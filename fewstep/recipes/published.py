"""The settings that a system was published with, as far as a recipe takes them, and the rest as notes. Torch-free."""

from typing import Annotated, Any, Literal

from pydantic import Field

from fewstep.util.config import Strict
from fewstep.util.number_types import Positive

Preset = Literal["small", "published"]
"""small: a recipe's own settings, for small networks and short runs. published: those of its paper over them."""


class Published(Strict):
    """What the paper sets; None, or nothing: as in the recipe.

    steps: of the student. guidance: of the teacher, wherever a term guides it or could by one scale. weights: of the
    terms of this name. turns: that a role takes in a cycle, in the rounds where it has one. role_lr: learning rate of a
    network beside the student. notes: for the reader alone.
    """

    optimiser: Literal["adamw", "radam"] | None = None
    lr: Positive | None = None
    schedule: Literal["constant", "cosine", "linear"] | None = None
    batch: Annotated[int, Field(ge=1)] | None = None
    ema: Annotated[float, Field(ge=0, lt=1)] | None = None
    steps: Annotated[int, Field(ge=1, le=64)] | None = None
    guidance: float | None = None
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
        terms = [term for own in recipe["rounds"] for term in own["terms"]]
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
            for term in _some((term for term in terms if "guidance" in term), "guidance"):
                term["guidance"] = self.guidance


def _some(found: Any, what: str) -> list[Any]:
    listed = list(found)
    if not listed:
        raise ValueError(f"published.{what}: no term of the recipe has it")
    return listed
