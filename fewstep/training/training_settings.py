"""Settings that recipes are made of: student, optimiser, distribution of noise levels, networks beside the student.

Torch-free. Noise levels are written independently of the process: as flow time u in [0, 1] or as noise ratio
nu = sigma / alpha = u / (1 - u), so that one recipe serves every process at equal log-SNR.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fewstep.diffusion.guidance import Scales
from fewstep.util.config import Strict

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Inputs = Literal["own", "data", "pairs"]


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


class OptimiserSettings(Strict):
    """One optimiser; `lr` is that of the student, other roles scale it."""

    kind: Literal["adamw", "radam"] = "adamw"
    lr: Positive = 1e-3
    betas: tuple[Share, Share] = (0.9, 0.99)
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    warmup: Share = 0.02
    """Share of the round over which the rate rises from zero."""
    clip: Annotated[float, Field(ge=0)] = 1.0
    """Largest gradient norm of one role; 0: no clipping."""


class TrainingSettings(Strict):
    """How a step is taken."""

    batch: Annotated[int, Field(ge=1)] = 128
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Parts that a batch is split into, each with its own forward and backward pass."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.998
    """Decay per update of the student's moving average, at most (1 + n) / (10 + n) after n updates; 0: no average."""
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """auto: bfloat16 autocast on a device that has it (a GPU, or a CPU with AVX512-BF16 or AMX), else float32.
    float64 is for proofs: there several processes and one give equal gradients."""


class TurnSettings(Strict):
    """What is trained beside the student: of itself heads only, which stand with their term."""

    lr_scale: Positive = 1.0
    """Its learning rate over the student's."""


class RoleSettings(TurnSettings):
    """A network trained beside the student."""

    init: Literal["teacher", "student", "previous"] = "teacher"
    """What it starts from; previous: the network of this role at the end of the round before."""
    lora: LoraSettings | None = None
    """Train adapters only."""


class Recording(Strict):
    """Checkpoints of a role that a round takes down, for the next one to walk back along."""

    role: str = "fake_score"
    count: Annotated[int, Field(ge=2)] = 4


class MergedRound(Strict):
    """A share of an earlier round's student in what a round ends with."""

    round: Annotated[int, Field(ge=1)]
    weight: Share


class RoundTrajectories(Strict):
    """Trajectories that a round makes of its own teacher; None: as in the first set."""

    count: Annotated[int, Field(ge=1)] | None = None
    solver: str | None = None
    steps: Annotated[int, Field(ge=1)] | None = None
    guidance: Scales = 1.0


class Overrides(Strict):
    """What params.yaml may set over a recipe (section `distill`); None: as in the recipe."""

    steps: Annotated[int, Field(ge=1, le=64)] | None = None
    batch: Annotated[int, Field(ge=1)] | None = None
    accumulate: Annotated[int, Field(ge=1)] | None = None
    lr: Positive | None = None
    schedule: Literal["constant", "cosine", "linear"] | None = None
    warmup: Share | None = None
    clip: Annotated[float, Field(ge=0)] | None = None
    ema: Annotated[float, Field(ge=0, lt=1)] | None = None
    precision: Literal["auto", "float32", "bfloat16", "float64"] | None = None
