"""Settings of fewstep/terms/adversarial.py. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from fewstep.recipes.settings import Times, UniformTimes
from fewstep.recipes.terms.base import Needs, TermSettings


class Adversarial(TermSettings):
    """A head on the fake score's features tells noised samples from noised data (DMD2)."""

    term: Literal["adversarial"]
    features: Literal["fake_score"] = "fake_score"
    weight: Annotated[float, Field(ge=0)] = 3e-3
    critic_weight: Annotated[float, Field(ge=0)] = 1e-2
    """Weight of the head's own loss in the turn of the network whose features it reads."""
    width: Annotated[int, Field(ge=1)] = 64
    times: Times = UniformTimes(low=0.02, high=0.98)
    """Noise levels of what is judged; equal to another term's, the same noised samples and network calls serve both."""

    @property
    def needs(self) -> Needs:
        return Needs(data=True)

    @property
    def trains(self) -> tuple[str, ...]:
        return ("student", self.features)
