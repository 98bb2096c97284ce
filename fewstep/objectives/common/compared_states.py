"""States of the student beside their targets, as one term of a round compares them and another may judge them."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor

from fewstep.util.errors import SettingsError

if TYPE_CHECKING:
    from fewstep.training.step.step_context import Step

Compared = tuple[Tensor, Tensor, Tensor]
"""The student's states and their targets (size, ...) at unit variance, and their noise ratios (size,)."""


class ComparesStates(ABC):
    """A term whose loss compares states with targets."""

    @abstractmethod
    def compared(self, step: "Step") -> Compared:
        """What the term compares in this step."""


def compared_states(step: "Step") -> Compared:
    """What a term of the round compares. Raises SettingsError if no term of the round compares states."""
    for term in step.terms:
        if isinstance(term, ComparesStates):
            return term.compared(step)
    raise SettingsError("no term of the round compares states with targets; add `term: consistency`")
