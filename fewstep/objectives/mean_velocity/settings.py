"""Settings of the term. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fewstep.diffusion.guidance import Scales
from fewstep.diffusion.noise_level_settings import LogNormalTimes, Times
from fewstep.objectives.term_settings import Needs, TermSettings
from fewstep.util.config import Strict
from fewstep.util.number_types import Positive, Share


class Dispersion(Strict):
    """A repulsion of the network's inner features: no two samples may be represented alike."""

    weight: Positive = 0.5
    temperature: Positive = 1.0
    """Of exp(-distance / temperature), distances being means over a feature's dimensions."""


class MeanVelocitySettings(TermSettings):
    """The mean velocity of the flow between two times (MeanFlow, SplitMeanFlow, shortcut models)."""

    term: Literal["mean_velocity"]
    identity: Literal["derivative", "splitting"] = "derivative"
    """derivative: by the derivative along the path; splitting: of two parts of the interval, without one."""
    split: Literal["uniform", "middle"] = "uniform"
    """splitting: where the interval is cut."""
    velocity: Literal["data", "teacher"] = "data"
    """Where the flow's velocity at a point comes from: the point's own data and noise, or the teacher."""
    tangent: Literal["target", "own"] = "target"
    """derivative: the velocity along which it is taken, the one above or the student's own at a point, which has no
    noise (improved MeanFlow)."""
    difference: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """derivative: 0: by forward differentiation; else a difference over this much of flow time to either side, which
    the fast waves do not drown by which some networks know the time."""
    times: Times = LogNormalTimes(mean=-0.4, std=1.0)
    second_times: Times | None = None
    """The other end of the interval; None: as `times`. The noisier of the two is where the interval starts."""
    dyadic: Annotated[int, Field(ge=0, le=16)] = 0
    """0: free intervals; n: lengths 1, 1/2, ... 2^-(n - 1) of flow time, at multiples of themselves (shortcut)."""
    instantaneous: Share = 0.75
    """Share of the batch whose interval is a point, where the mean velocity is the flow's own."""
    whole: Share = 0.0
    """Share of the batch whose interval is all of the path, where a student of one step samples (TwinFlow)."""
    clean: Share = 0.0
    """Share of the batch whose interval ends at clean data, wherever it starts: what a student samples by."""
    growth: Share = 0.0
    """Share of the round over which intervals grow from points to their full length."""
    guidance: Scales = 1.0
    """Of the velocity that is learnt: the teacher's u + guidance (c - u), or for data, omega of MeanFlow."""
    mixing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """kappa of MeanFlow: part of the data's velocity replaced by the student's own given the condition."""
    class_dropout: Share = 0.0
    """Share of the labels replaced by the null class, which guidance needs."""
    power: Annotated[float, Field(ge=0, le=1)] = 0.0
    """p of the weight 1 / (error + offset)^p of each interval; 0: none."""
    point_power: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The same where the interval is a point."""
    offset: Positive = 1e-3
    """An offset far below the error of the points makes intervals outweigh them, and nothing holds the velocity."""
    dispersion: Dispersion | None = None

    @property
    def needs(self) -> Needs:
        return Needs(data=True, teacher=self.velocity == "teacher")

    @model_validator(mode="after")
    def _consistent(self) -> "MeanVelocitySettings":
        if self.instantaneous + self.whole + self.clean > 1:
            raise ValueError("instantaneous, whole and clean: shares of one batch, of 1 at most in sum")
        if self.whole and self.identity == "derivative":
            raise ValueError("whole: training by the derivative diverges with many intervals of one start; use clean")
        if self.difference and self.identity != "derivative":
            raise ValueError("difference: goes with identity: derivative")
        if self.mixing and self.velocity == "teacher":
            raise ValueError("mixing is of the data's velocity; with velocity: teacher set guidance alone")
        if self.velocity != "teacher" and not isinstance(self.guidance, float):
            raise ValueError("guidance: several scales are a teacher's; that of the data's velocity is one number")
        return self
