"""Settings of the term. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from fewstep.diffusion.noise_level_settings import Times, UniformTimes
from fewstep.objectives.term_settings import TEACHER_NETWORK, Needs, TermSettings


class FeaturesSettings(TermSettings):
    """A smaller student's output and inner features against the teacher's, at noised data (LAPTOP-Diff)."""

    term: Literal["features"]
    output: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the output's part beside that of the features, which is 1."""
    normalised: bool = True
    """Whether each stage's part is divided by the size of the teacher's features there."""
    times: Times = UniformTimes()

    @property
    def needs(self) -> Needs:
        return Needs(data=True, teacher=True)

    @property
    def frozen(self) -> tuple[str, ...]:
        return (TEACHER_NETWORK,)
