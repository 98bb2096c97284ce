"""What a trajectory set consists of. No torch here."""

from typing import Annotated, Literal

from pydantic import Field

from fewstep.diffusion.guidance import SampledScales
from fewstep.util.config import Strict

Count = Annotated[int, Field(ge=1)]


class TrajectorySettings(Strict):
    """Settings of a set. All but ``count`` determine its bytes, record by record.

    Attributes:
        count: samples. A larger set extends a smaller one.
        solver: ddim, dpmsolver++, unipc, heun, euler, or a diffusers scheduler class; deterministic ones only.
        steps: of the solver.
        guidance: s in u + s (c − u), 1 means none; or one scale for each condition (fewstep/diffusion/guidance.py).
        keep: states along the way that are stored with the end: None, "all", or step indices.
        record_size: samples per record, which is the teacher's batch; part of the content, since a network's outputs
            depend on the batch size in their last bits. auto: by the bytes of a sample
            (fewstep/trajectories/record_size.py).
        records_per_shard: records per file.
        dtype: in which samples and states are stored; they are read as float32.
        precision: of the network's weights and activations. bfloat16 is about 1.5 times as fast and moves a sample
            by about 1 % (relative, 20 steps).
        compile: true compiles the network with inductor, "auto" does so where the whole set (its settings, not what is
            left of it) is long enough to pay for it (fewstep.util.compiling) and the machine can: one that cannot says
            so, and the set names it among its backends.
    """

    count: Count = 8192
    solver: str = "dpmsolver++"
    steps: Count = 16
    guidance: SampledScales = 1.0
    keep: Literal["all"] | tuple[Annotated[int, Field(ge=0)], ...] | None = None
    record_size: Annotated[int, Field(ge=1, le=1 << 16)] | Literal["auto"] = 256
    records_per_shard: Annotated[int, Field(ge=1, le=1 << 16)] = 8
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: Literal["auto"] | bool = "auto"
