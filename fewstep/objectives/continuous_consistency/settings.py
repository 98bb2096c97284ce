"""Settings of the term. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fewstep.diffusion.guidance import Scales
from fewstep.diffusion.noise_level_settings import LogNormalTimes, Times
from fewstep.objectives.term_settings import Needs, TermSettings
from fewstep.util.config import Strict
from fewstep.util.number_types import Positive, Share


class NoisedData(Strict):
    """Real data, noised."""

    kind: Literal["data"]
    times: Times = LogNormalTimes(mean=-0.3, std=1.4)


class StoredStates(Strict):
    """States of the teacher's stored trajectories, all alike: no data (TBCM)."""

    kind: Literal["trajectory"]


class ContinuousConsistencySettings(TermSettings):
    """Consistency in the limit of no gap: the tangent of the student along the flow (sCM)."""

    term: Literal["continuous_consistency"]
    points: Annotated[NoisedData | StoredStates, Field(discriminator="kind")] = NoisedData(kind="data")
    velocity: Literal["teacher", "data"] = "teacher"
    """Of the flow at the point: the teacher's (sCD), or the point's own data and noise (sCT)."""
    guidance: Scales = 1.0
    """Guidance of the teacher, u + guidance (c - u), for a student without a guidance input."""
    warmup: Share = 0.1
    """Share of the round over which the part of the tangent with the network's own derivative comes in."""
    difference: Annotated[float, Field(ge=0)] = 0.0
    """0: the derivative along the flow by forward differentiation; else a difference over this much of log nu towards
    the data, which damps the fast waves by which a network knows the time and needs no forward derivative."""
    tangent_floor: Positive = 0.1
    """c of the normalised tangent g / (|g| + c), |.| the root of the mean square."""
    width: Annotated[int, Field(ge=1)] = 16
    """Frequencies from which the weight of each noise level is learnt."""

    @property
    def needs(self) -> Needs:
        stored = self.points.kind == "trajectory"
        states = "all" if stored else None
        return Needs(data=not stored, pairs=stored, states=states, teacher=self.velocity == "teacher")

    @property
    def differentiates_forwards(self) -> bool:
        return not self.difference

    @model_validator(mode="after")
    def _fits(self) -> "ContinuousConsistencySettings":
        if self.velocity == "data" and self.points.kind != "data":
            raise ValueError("velocity: stored states have no data of their own; take the teacher's")
        return self
