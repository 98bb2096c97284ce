"""Settings of a recipe beside its student and its terms: optimiser, training, what rounds exchange. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fewstep.diffusion.guidance import Scales
from fewstep.util.config import Strict
from fewstep.util.number_types import Positive, Share

Inputs = Literal["own", "data", "pairs"]


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
    moments: Literal["float32", "8bit"] = Field(default="float32", exclude_if=lambda value: value == "float32")
    """Format of AdamW's two moments. 8bit takes a quarter of their memory, needs torchao, and is for GPUs."""

    @model_validator(mode="after")
    def _moments_are_of_adamw(self) -> "OptimiserSettings":
        if self.moments == "8bit" and self.kind != "adamw":
            raise ValueError(f"moments: 8bit goes with kind: adamw, not with {self.kind}")
        return self


class TrainingSettings(Strict):
    """How a step is taken."""

    batch: Annotated[int, Field(ge=1)] = 128
    parts: Annotated[int, Field(ge=1)] = Field(default=1, exclude_if=lambda parts: parts == 1)
    """Parts that a batch is split into, which processes share. Gradients are summed in an order that the parts alone
    decide: one, two or more processes make the same bits. Samples that a term compares with each other are a part's."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Forward and backward passes that a part is taken in, one after the other, to save memory."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.998
    """Decay per update of the student's moving average, at most (1 + n) / (10 + n) after n updates; 0: no average."""
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """auto: bfloat16 autocast on a device that has it (a GPU, or a CPU with AVX512-BF16 or AMX), else float32.
    float64 is for proofs: there several processes and one give equal gradients."""
    frozen: Literal["float32", "bfloat16"] = Field(default="float32", exclude_if=lambda value: value == "float32")
    """Format of the weights that a round does not train: its teachers, and what lies below adapters. bfloat16 halves
    their memory and goes with computations in it."""
    guided_calls: Literal["joint", "sequential"] = Field(default="joint", exclude_if=lambda value: value == "joint")
    """Whether a network that is guided is called once for all branches or once for each, which takes the activations of
    one at a time; the results differ by rounding."""


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
    parts: Annotated[int, Field(ge=1)] | None = Field(default=None, exclude_if=lambda parts: parts is None)
    accumulate: Annotated[int, Field(ge=1)] | None = None
    lr: Positive | None = None
    schedule: Literal["constant", "cosine", "linear"] | None = None
    warmup: Share | None = None
    clip: Annotated[float, Field(ge=0)] | None = None
    ema: Annotated[float, Field(ge=0, lt=1)] | None = None
    precision: Literal["auto", "float32", "bfloat16", "float64"] | None = None
    frozen: Literal["float32", "bfloat16"] | None = Field(default=None, exclude_if=lambda value: value is None)
    guided_calls: Literal["joint", "sequential"] | None = Field(default=None, exclude_if=lambda value: value is None)
    moments: Literal["float32", "8bit"] | None = Field(default=None, exclude_if=lambda value: value is None)
