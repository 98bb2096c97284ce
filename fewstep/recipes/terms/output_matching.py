"""Settings of fewstep/terms/output_matching.py. Torch-free."""

from typing import Literal

from fewstep.recipes.settings import Times, UniformTimes
from fewstep.recipes.terms.base import Needs, TermSettings


class OutputMatching(TermSettings):
    """The student's output against the live teacher's, guided or not, at noised data: compression, guidance in one
    pass."""

    term: Literal["output_matching"]
    guidance: float | Literal["input"] = 1.0
    """Guidance of the teacher's output, u + guidance (c - u); input: the scale that the student is given."""
    times: Times = UniformTimes()

    @property
    def needs(self) -> Needs:
        return Needs(data=True, teacher=True)
