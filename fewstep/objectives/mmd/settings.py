"""Settings of the term. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from fewstep.objectives.term_settings import TEACHER_NETWORK, Needs, TermSettings
from fewstep.util.number_types import Positive


class MmdSettings(TermSettings):
    """Kernel distance of the student's samples to data, through all of its steps (MMD-DDM)."""

    term: Literal["mmd"]
    kernel: Literal["gaussian", "rational_quadratic", "cubic"] = "gaussian"
    bandwidths: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.1, 0.2, 0.5, 1.0, 2.0)
    """Of the kernels that are summed, as shares of the median distance between data; the cubic kernel has none."""
    space: Literal["samples", "features"] = "samples"
    """Where samples are compared: as they are, or in the teacher network's inner features."""
    feature_noise: Positive = 0.1
    """features: noise ratio sigma / alpha at which they are read."""

    @property
    def needs(self) -> Needs:
        return Needs(data=True, teacher=self.space == "features")

    @property
    def frozen(self) -> tuple[str, ...]:
        return (TEACHER_NETWORK,) if self.space == "features" else ()
