"""Settings of fewstep/terms/regression.py. Torch-free."""

from typing import Literal

from fewstep.recipes.settings import Positive
from fewstep.recipes.terms.base import Needs, TermSettings


class Regression(TermSettings):
    """The student's sample against the end of the teacher's trajectory (knowledge distillation)."""

    term: Literal["regression"]
    at: Literal["noise", "states"] = "noise"
    """noise: from the start of the trajectory in one step; states: from any stored state."""
    distance: Literal["l2", "pseudo_huber"] = "l2"
    huber: Positive = 0.00054
    """pseudo_huber: c = huber * sqrt(dimension)."""

    @property
    def needs(self) -> Needs:
        return Needs(pairs=True, states="all" if self.at == "states" else None)
