"""Settings of the term. Torch-free."""

from typing import Literal

from fewstep.diffusion.guidance import Scales
from fewstep.objectives.consistency.settings import Grid
from fewstep.objectives.term_settings import Needs, TermSettings
from fewstep.util.number_types import Share


class BootstrapSettings(TermSettings):
    """From the noise, the student's state a little later is its state now and a step of the teacher there (BOOT)."""

    term: Literal["bootstrap"]
    levels: Grid = Grid(kind="grid", cells=24)
    boundary_share: Share = 0.1
    """Share of the batch that holds the student at the noise end to the teacher's prediction."""
    guidance: Scales = 1.0
    """Guidance of the teacher, u + guidance (c - u), for a student without a guidance input."""

    @property
    def needs(self) -> Needs:
        return Needs(teacher=True)

    @property
    def second_time(self) -> bool:
        return True
