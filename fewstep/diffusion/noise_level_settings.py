"""Settings of distributions of noise levels (`noise_levels`). Torch-free.

Noise levels are written independently of the process: as flow time u in [0, 1] or as noise ratio
nu = sigma / alpha = u / (1 - u), so that one recipe serves every process at equal log-SNR.
"""

from typing import Annotated, Literal

from pydantic import Field

from fewstep.util.config import Strict
from fewstep.util.number_types import Positive, Share


class UniformTimes(Strict):
    """Flow time u uniform in [low, high]."""

    kind: Literal["uniform"] = "uniform"
    low: Share = 0.0
    high: Share = 1.0


class NativeTimes(Strict):
    """The process's own time uniform over its range: what the teacher's training uses."""

    kind: Literal["native"] = "native"


class LogNormalTimes(Strict):
    """log(nu) normal with this mean and deviation (Karras et al., 2206.00364); the same as a logit-normal flow time."""

    kind: Literal["lognormal"] = "lognormal"
    mean: float = -1.1
    std: Positive = 2.0


Times = Annotated[UniformTimes | NativeTimes | LogNormalTimes, Field(discriminator="kind")]
