"""Settings of the term. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fewstep.diffusion.guidance import Scales
from fewstep.diffusion.noise_level_settings import LogNormalTimes, Times
from fewstep.objectives.term_settings import COMPARED_STATES, START, Needs, TermSettings
from fewstep.util.config import Strict
from fewstep.util.number_types import Positive, Share

Decay = Annotated[float, Field(ge=0, lt=1)]


class Gap(Strict):
    """Continuous levels whose gap shrinks by stages (ECT): r = nu max(0, 1 - q^-(stage + 1) (1 + k sigmoid(-b nu)))."""

    kind: Literal["gap"]
    times: Times = LogNormalTimes()
    q: Annotated[float, Field(gt=1)] = 2.0
    k: Annotated[float, Field(ge=0)] = 8.0
    b: Positive = 1.0
    stages: Annotated[int, Field(ge=1)] = 8
    """Stages of equal length in a round; the gap between the two points shrinks by q at each."""
    ratio_cap: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Largest ratio of the two noise levels."""


class Grid(Strict):
    """Neighbours, or points a few cells apart, on a grid of levels from `least` up to where the student starts."""

    kind: Literal["grid"]
    cells: Annotated[int, Field(ge=1)] = 18
    """Cells of the grid, at the end of the round where they grow."""
    first: Annotated[int, Field(ge=1)] | None = None
    """Cells at the beginning of the round; None: as many as at the end."""
    growth: Literal["sqrt", "double"] = "sqrt"
    """sqrt: the square of the cells grows linearly (CT); double: they double in stages of equal length (iCT)."""
    spacing: Literal["karras", "native"] = "karras"
    """karras: even in nu^(1/7) (Karras et al., 2206.00364, eq. 5); native: even in the process's own time (LCM)."""
    least: Positive = 0.002
    """Noise ratio of the grid's clean end; what lies there counts as clean."""
    reach: Annotated[int, Field(ge=1)] = 1
    """Most cells between the two points; how many is drawn evenly (CTM)."""
    times: Times | None = None
    """Which cells are drawn how often: those in which these levels fall (iCT); None: all alike."""


Levels = Annotated[Gap | Grid, Field(discriminator="kind")]


class DataPoints(Strict):
    """Both points are one sample under one noise: no teacher (CT, iCT, ECT)."""

    kind: Literal["data"]
    levels: Levels = Gap(kind="gap")


class TeacherPoints(Strict):
    """From a noised sample, a step of the teacher to the nearer level (CD, LCM, PCM, SCott)."""

    kind: Literal["teacher"]
    levels: Levels = Grid(kind="grid")
    solver: Literal["ddim", "heun"] = "ddim"
    """ddim is Euler's method in x / alpha and nu, heun is Heun's there: EDM's solver at equal log-SNR."""
    substeps: Annotated[int, Field(ge=1)] = 1
    """Steps of the solver between the two points."""
    churn: Share = 0.0
    """Noise put in at each step, over that of ancestral sampling: 0 is the ODE, 1 the SDE (eta of DDIM)."""
    guidance: Scales = 1.0
    """Guidance of the teacher, u + guidance (c - u), for a student without a guidance input (LCM's has one)."""


class TrajectoryPoints(Strict):
    """Both points are stored states of one trajectory of the teacher (STD)."""

    kind: Literal["trajectory"]
    reach: Annotated[int, Field(ge=1)] = 1
    """Most states between the two points; how many is drawn evenly."""


Points = Annotated[DataPoints | TeacherPoints | TrajectoryPoints, Field(discriminator="kind")]


class Truncation(Strict):
    """Only levels from `at` up are trained; below it the student as the round began gives the target (TCM)."""

    at: Positive = 1.0
    """Noise ratio where the two join."""
    boundary_share: Share = 0.25
    """Share of the batch that holds the student to its former self at `at`."""
    boundary_weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of that part over the rest's, whatever the gap."""


class ConsistencySettings(TermSettings):
    """Predictions at two points of one path agree, the nearer one being the target."""

    term: Literal["consistency"]
    points: Points = DataPoints(kind="data")
    to: Literal["clean", "phase", "any"] = "clean"
    """Where predictions are compared: clean data; the edge of the phase, phases being the student's steps (PCM); any
    level below both points, told to the network as its second time (CTM)."""
    carry: bool = False
    """Whether what is compared elsewhere than at clean data is carried there by the target network first (CTM)."""
    target_ema: Decay | None = None
    """Decay of the moving average that gives the target; None: the student itself, without gradient."""
    target_ema_grows: bool = False
    """With a growing grid of N cells: the decay is target_ema^(first / N) (CT)."""
    truncation: Truncation | None = None
    distance: Literal["pseudo_huber", "l2"] = "pseudo_huber"
    huber: Annotated[float, Field(ge=0)] = 0.00054
    """c = huber * sqrt(dimension) in sqrt(|d|^2 + c^2) - c."""
    weighting: Literal["inverse_gap", "even"] = "inverse_gap"
    """inverse_gap: over the difference of the two noise ratios."""

    @property
    def needs(self) -> Needs:
        kind = self.points.kind
        stored = kind == "trajectory"
        return Needs(data=not stored, teacher=kind == "teacher", pairs=stored, states="all" if stored else None)

    @property
    def second_time(self) -> bool:
        return self.to == "any"

    @property
    def offers(self) -> tuple[str, ...]:
        return (COMPARED_STATES,)

    @property
    def frozen(self) -> tuple[str, ...]:
        return (START,) if self.truncation else ()

    @model_validator(mode="after")
    def _fits(self) -> "ConsistencySettings":
        stored = self.points.kind == "trajectory"
        if stored and (self.to != "clean" or self.truncation):
            raise ValueError("points: stored states go with `to: clean` and without truncation")
        growing = not stored and self.points.levels.kind == "grid" and self.points.levels.first is not None
        if self.target_ema_grows and (self.target_ema is None or not growing):
            raise ValueError("target_ema_grows: needs target_ema and a grid with `first`")
        if self.carry and (self.to == "clean" or self.target_ema is None):
            raise ValueError("carry: needs target_ema, and `to` elsewhere than clean")
        return self
