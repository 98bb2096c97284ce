"""Settings of the term. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fewstep.diffusion.noise_level_settings import Times, UniformTimes
from fewstep.objectives.common.solver_step_settings import HopSettings
from fewstep.objectives.term_settings import TEACHER_NETWORK, Needs, TermSettings
from fewstep.util.number_types import Positive, Share


class RegressionSettings(TermSettings):
    """The student's prediction against what the teacher's solver made of the same state."""

    term: Literal["regression"]
    at: Literal["noise", "states", "hops", "samples"] = "noise"
    """Where the student predicts. noise: the start of a cached trajectory; states: any stored state; hops: noised
    samples at the student's own times; samples: its own sample, which the teacher denoises from `times` (ADD)."""
    to: Literal["end", "next"] = "end"
    """states: the end of the trajectory, or its next state."""
    hop: HopSettings = HopSettings()
    times: Times = UniformTimes(low=0.02, high=0.98)
    weighting: Literal["none", "snr_trunc", "alpha"] = "none"
    """snr_trunc: the larger error, of x or of the noise; alpha: the share of the data in what the teacher saw."""
    distance: Literal["l2", "pseudo_huber", "perceptual"] = "l2"
    huber: Positive = 0.00054
    """pseudo_huber: c = huber * sqrt(dimension)."""
    extractor: str | None = None
    """perceptual: "module:function", which returns a frozen network x -> list of features; None: the teacher's network,
    read at `level`."""
    level: Positive = 0.1
    """perceptual by the teacher's network: the noise ratio that it is told."""

    high_frequencies: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the squared difference above `cutoff`, beside the distance (HiPA)."""
    cutoff: Share = 0.25
    """Spatial frequency, as a share of the highest, above which frequencies count as high."""

    @property
    def sees_samples(self) -> bool:
        return self.extractor is not None

    @property
    def needs(self) -> Needs:
        cached = self.at in ("noise", "states")
        hops = self.at == "hops"
        return Needs(
            data=hops and self.hop.source == "data",
            pairs=cached or (hops and self.hop.source == "pairs"),
            states="all" if self.at == "states" else None,
            teacher=not cached,
        )

    @property
    def frozen(self) -> tuple[str, ...]:
        return (TEACHER_NETWORK,) if self.distance == "perceptual" and self.extractor is None else ()

    @property
    def parts(self) -> int:
        return self.hop.teacher_steps if self.at == "hops" else 1

    @model_validator(mode="after")
    def _consistent(self) -> "RegressionSettings":
        if self.to == "next" and self.at != "states":
            raise ValueError(f"to: next goes with `at: states`, not with {self.at}")
        if self.weighting == "snr_trunc" and self.at == "samples" or self.weighting == "alpha" and self.at != "samples":
            raise ValueError(f"weighting: {self.weighting} does not go with `at: {self.at}`")
        return self
