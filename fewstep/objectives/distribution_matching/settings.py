"""Settings of the term. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fewstep.diffusion.guidance import Scales
from fewstep.diffusion.noise_level_settings import Times, UniformTimes
from fewstep.objectives.role_settings import RoleSettings
from fewstep.objectives.term_settings import DENSITY_RATIO, Needs, TermSettings
from fewstep.util.config import Strict
from fewstep.util.number_types import Positive

Divergence = Literal[
    "reverse_kl", "forward_kl", "jensen_shannon", "softened_reverse_kl", "hellinger", "jeffreys", "neyman"
]


class RandomGuidance(Strict):
    """Guidance drawn anew for each sample, uniform in [low, high] (SNOOPI)."""

    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> "RandomGuidance":
        if self.low > self.high:
            raise ValueError(f"low {self.low} lies above high {self.high}")
        return self


class Correction(Strict):
    """A short Langevin chain that corrects (noise, latent) of the student before it learns from them (EMD)."""

    steps: Annotated[int, Field(ge=1)] = 4
    noise_size: Annotated[float, Field(gt=0, lt=1)] = 0.16
    """Step size of the noise that the student's sample is diffused with."""
    latent_size: Annotated[float, Field(ge=0, lt=1)] = 1.6e-5
    """Step size of the student's own input."""


class DistributionMatchingSettings(TermSettings):
    """Matches the student's distribution to the teacher's by two scores: the teacher's, and that of a network trained
    on the student's samples."""

    term: Literal["distribution_matching"]
    gradient: Literal["score_difference", "score_identity"] = "score_difference"
    """score_difference: the sample follows the difference of the scores (DMD, VSD); score_identity: a squared
    difference of the scores is differentiated through both networks to their input (SiD, SIM)."""
    divergence: Divergence = "reverse_kl"
    """Weighs samples by the ratio of the densities, which an adversarial term of the round estimates; reverse_kl needs
    none."""
    ratio_limits: tuple[Positive, Positive] = (0.1, 20.0)
    """The ratio is held between these."""
    alpha: float = 0.5
    """score_identity: 0.5 gives the exact gradient of the divergence, 1 that by the student's score alone (SIM); SiD
    takes 1.2."""
    weighting: Literal["normalised", "x0", "epsilon", "likelihood"] = "normalised"
    """Weight of a noise level nu: by the teacher's own error (DMD, SiD), 1, 1/nu, or that which makes the Fisher
    divergence over all levels the KL divergence of the samples."""
    at: Literal["samples", "phases"] = "samples"
    """samples: the student's prediction of clean samples at a random step. phases: its state at the end of a random
    step, noised within that step's interval (TDM, Phased DMD)."""
    guidance: Scales | RandomGuidance = 1.0
    """Guidance of the teacher's score, u + guidance (c - u)."""
    huber: Annotated[float, Field(ge=0)] | None = None
    """score_difference: the pseudo-Huber distance, with c = huber sqrt(D), in place of the squared one (TDM): samples
    far from where the scores point count no more than near ones."""
    correction: Correction | None = None
    times: Times = UniformTimes(low=0.02, high=0.98)
    fake_score: RoleSettings = RoleSettings()

    @property
    def needs(self) -> Needs:
        return Needs(teacher=True)

    @property
    def roles(self) -> dict[str, RoleSettings]:
        return {"fake_score": self.fake_score}

    @property
    def asks(self) -> tuple[str, ...]:
        return () if self.divergence == "reverse_kl" else (DENSITY_RATIO,)

    @property
    def trains(self) -> tuple[str, ...]:
        return ("student", "fake_score")

    @model_validator(mode="after")
    def _fits_together(self) -> "DistributionMatchingSettings":
        if self.correction is not None and (self.gradient != "score_difference" or self.at != "samples"):
            raise ValueError("correction: needs gradient: score_difference and at: samples")
        if self.huber is not None and self.gradient != "score_difference":
            raise ValueError("huber: needs gradient: score_difference")
        if self.ratio_limits[0] > self.ratio_limits[1]:
            raise ValueError(f"ratio_limits: {self.ratio_limits[0]} lies above {self.ratio_limits[1]}")
        return self
