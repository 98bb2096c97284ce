"""Settings of a student: its network, what is trained of it, and how it is sampled. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fewstep.util.config import Strict
from fewstep.util.number_types import Positive


class GuidanceInput(Strict):
    """Guidance scales s (of u + s (c - u); 1 is none) that the student takes as an input."""

    low: float = 1.0
    high: float = 8.0
    sample: float = 2.0
    """The scale it is sampled at and exported with."""

    @model_validator(mode="after")
    def _ordered(self) -> "GuidanceInput":
        if not self.low <= self.sample <= self.high or self.low == self.high:
            raise ValueError(f"low <= sample <= high and low < high, got {self.low}, {self.sample}, {self.high}")
        return self


class LoraSettings(Strict):
    """Low-rank adapters on every linear and convolution layer, the only weights that are trained."""

    rank: Annotated[int, Field(ge=1)] = 16
    alpha: Positive | None = None
    """The adapters' product is scaled by alpha / rank; None: by 1."""


class SizeSettings(Strict):
    """A network smaller than the teacher's: its first channels, and of its residual layers those that matter most."""

    width: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the channels."""
    depth: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the residual layers of each resolution; at least one stays."""
    middle: bool = True
    """Whether the middle block stays."""


class StudentSettings(Strict):
    """The student: a copy of the teacher or a fresh network of its shape, and how it is sampled."""

    steps: Annotated[int, Field(ge=1, le=64)] = 1
    init: Literal["teacher", "random"] = "teacher"
    sampler: Literal["ode", "renoise"] = "ode"
    max_noise_ratio: Positive | None = None
    """sigma/alpha at which sampling starts; None: the end of the process."""
    spacing: Literal["process", "angle"] = "process"
    """Times of the steps: the process's own grid, or even in atan(sigma/alpha) whatever the process."""
    second_time: bool = False
    """Whether it takes a second time s besides t, and maps t to s; sampled at s = the clean end."""
    negative_time: bool = False
    """Whether it takes negative times, at which it models its own samples."""
    guidance_input: GuidanceInput | None = None
    """Whether it takes the guidance scale as an input."""
    size: SizeSettings | None = None
    """Smaller than the teacher; `init` says whether what remains of the teacher's weights is inherited."""
    guide: SizeSettings | None = None
    """Train a small network of this size beside the teacher's, which stays as it is; a guidance input is its own."""
    lora: LoraSettings | None = None
    """Train adapters only; they are merged at export."""
