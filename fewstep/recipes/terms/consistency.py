"""Settings of fewstep/terms/consistency.py. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from fewstep.recipes.settings import LogNormalTimes, Positive, Times
from fewstep.recipes.terms.base import Needs, TermSettings


class Consistency(TermSettings):
    """Consistency tuning on data (ECT): two points of one noise, ever closer together."""

    term: Literal["consistency"]
    times: Times = LogNormalTimes()
    q: Annotated[float, Field(gt=1)] = 2.0
    k: Annotated[float, Field(ge=0)] = 8.0
    b: Positive = 1.0
    stages: Annotated[int, Field(ge=1)] = 8
    """Stages of equal length in a round; the gap between the two points shrinks by q at each."""
    ratio_cap: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Largest ratio of the two noise levels."""
    huber: Annotated[float, Field(ge=0)] = 0.00054
    """c = huber * sqrt(dimension) in sqrt(|d|^2 + c^2) - c."""

    @property
    def needs(self) -> Needs:
        return Needs(data=True)
