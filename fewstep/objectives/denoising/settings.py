"""Settings of the term. Torch-free."""

from typing import Literal

from fewstep.diffusion.noise_level_settings import NativeTimes, Times
from fewstep.objectives.term_settings import Needs, TermSettings
from fewstep.util.number_types import Share


class DenoisingSettings(TermSettings):
    """Denoising score matching on data: what trains a teacher."""

    term: Literal["denoising"]
    times: Times = NativeTimes()
    class_dropout: Share = 0.0
    """Share of the labels replaced by the null class, which guidance needs."""

    at_own_time: bool = False
    """A student of two times is taught with the second equal to the first (CTM)."""

    @property
    def second_time(self) -> bool:
        return self.at_own_time

    @property
    def needs(self) -> Needs:
        return Needs(data=True)
