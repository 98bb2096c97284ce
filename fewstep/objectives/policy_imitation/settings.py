"""Settings of the term. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from fewstep.diffusion.guidance import Scales
from fewstep.objectives.term_settings import Needs, TermSettings
from fewstep.util.number_types import Share


class PolicyImitationSettings(TermSettings):
    """A step gives a policy that needs no network; its velocities follow the teacher's where it leads (pi-Flow)."""

    term: Literal["policy_imitation"]
    anchors: Annotated[int, Field(ge=2, le=64)] = 8
    """Predictions of x0, evenly over the flow times of a step, between which the policy interpolates."""
    states: Annotated[int, Field(ge=1)] = 2
    """Places along the policy's own path where it is compared with the teacher."""
    guidance: Scales = 1.0
    """Of the teacher's velocity, u + guidance (c - u)."""
    least: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Flow time below which nothing is compared: velocities of x0 are their errors over the flow time."""
    compared: Literal["velocity", "x0"] = "velocity"
    """With the teacher: velocities, or what they are made of, predictions of x0, which weighs flow times by their
    square."""
    dropout: Share = 0.0
    """Share of the samples whose policy is held at its mean over the step, which is what sampling uses."""

    @property
    def needs(self) -> Needs:
        return Needs(teacher=True)
