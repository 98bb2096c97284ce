"""Settings of fewstep/objectives/common/solver_steps.py. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from fewstep.diffusion.guidance import Scales
from fewstep.util.config import Strict


class HopSettings(Strict):
    """One step of the student between two of its own times, and the teacher's finer steps over the same stretch."""

    teacher_steps: Annotated[int, Field(ge=1)] = 2
    source: Literal["data", "pairs"] = "data"
    """What is noised for the start: data, or the teacher's own samples."""
    guidance: Scales = 1.0
    """Guidance of the teacher's steps."""
