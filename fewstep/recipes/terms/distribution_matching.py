"""Settings of fewstep/terms/distribution_matching.py. Torch-free."""

from typing import Literal

from fewstep.recipes.settings import RoleSettings, Times, UniformTimes
from fewstep.recipes.terms.base import Needs, TermSettings


class DistributionMatching(TermSettings):
    """Reverse KL by two scores: the teacher's, and that of a network trained on the student's samples."""

    term: Literal["distribution_matching"]
    divergence: Literal["reverse_kl"] = "reverse_kl"
    guidance: float = 1.0
    """Guidance of the teacher's score, u + guidance (c - u)."""
    times: Times = UniformTimes(low=0.02, high=0.98)
    fake_score: RoleSettings = RoleSettings()

    @property
    def needs(self) -> Needs:
        return Needs(teacher=True)

    @property
    def roles(self) -> dict[str, RoleSettings]:
        return {"fake_score": self.fake_score}

    @property
    def trains(self) -> tuple[str, ...]:
        return ("student", "fake_score")
