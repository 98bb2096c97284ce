"""Settings of the term. Torch-free."""

from typing import Literal

from fewstep.diffusion.noise_level_settings import Times, UniformTimes
from fewstep.objectives.term_settings import TermSettings
from fewstep.util.number_types import Positive, Share


class SelfAdversarialSettings(TermSettings):
    """The student judges its own samples, whose flow it learns at negative times (TwinFlow; `negative_time`)."""

    term: Literal["self_adversarial"]
    rectification: Positive = 1.0
    """Weight of the direction from its own flow to the data's, beside the loss of the negative times."""
    delay: Share = 0.5
    """Share of the round before its own samples are pulled: until the data's flow is known it points nowhere."""
    times: Times = UniformTimes(low=0.02, high=0.98)
    """Noise levels of its own samples."""
