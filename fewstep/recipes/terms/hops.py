"""Settings of fewstep/terms/hops.py. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from fewstep.configuration import Strict
from fewstep.guidance import Scales


class Hop(Strict):
    """One step of the student between two of its own times, and the teacher's finer steps over the same stretch."""

    teacher_steps: Annotated[int, Field(ge=1)] = 2
    source: Literal["data", "pairs"] = "data"
    """What is noised for the start: data, or the teacher's own samples."""
    guidance: Scales = 1.0
    """Guidance of the teacher's steps."""
