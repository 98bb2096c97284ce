"""How a student samples, as typed settings without torch; part of every exported folder."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from fewstep.util.config import Strict


class SamplerSettings(Strict):
    """How a student samples.

    kind: `ode`, deterministic steps from time to time (DDIM, arXiv 2010.02502); `renoise`, predict x0, add fresh noise
    of the next time, repeat (multi-step consistency sampling, arXiv 2303.01469, algorithm 1).
    steps: network evaluations. times: native times, decreasing, one per step; null for the process's own grid.
    start: first native time of that grid where it is not the process's end of pure noise.
    spacing: of that grid: as the process has it, or even in atan(σ/α), the same in every process.
    """

    kind: Literal["ode", "renoise"] = "ode"
    steps: Annotated[int, pydantic.Field(ge=1, le=1000)] = 1
    times: tuple[float, ...] | None = None
    start: float | None = None
    spacing: Literal["process", "angle"] = "process"

    @pydantic.model_validator(mode="after")
    def _times_fit(self) -> SamplerSettings:
        if self.times is not None:
            if len(self.times) != self.steps:
                raise ValueError(f"times has {len(self.times)} entries for {self.steps} steps")
            if any(a <= b for a, b in zip(self.times[:-1], self.times[1:], strict=True)) or min(self.times) <= 0:
                raise ValueError("times must be positive and decrease")
            if self.start is not None:
                raise ValueError("give times or start, not both")
        return self

