"""Settings of the term. Torch-free."""

from typing import Literal

from fewstep.diffusion.guidance import Scales
from fewstep.diffusion.noise_level_settings import Times, UniformTimes
from fewstep.objectives.term_settings import Needs, TermSettings


class OutputMatchingSettings(TermSettings):
    """The student's output against the live teacher's, guided or not, at noised samples: compression, guidance
    in one pass."""

    term: Literal["output_matching"]
    guidance: Scales | Literal["input"] = 1.0
    """Guidance of the teacher's output, u + guidance (c - u), or one scale for each condition
    (fewstep.diffusion.guidance); input: the scale that the student is given."""
    source: Literal["data", "pairs"] = "data"
    """What is noised: data, or the teacher's samples, which with the round's guidance lie where a guided one goes."""
    times: Times = UniformTimes()

    @property
    def needs(self) -> Needs:
        return Needs(data=self.source == "data", pairs=self.source == "pairs", teacher=True)
