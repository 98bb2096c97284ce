"""Settings of the term. Torch-free."""

from typing import Literal

from fewstep.diffusion.noise_level_settings import Times, UniformTimes
from fewstep.objectives.term_settings import Needs, TermSettings
from fewstep.util.number_types import Share


class FlowMatchingSettings(TermSettings):
    """Velocity of the straight path between noise and sample: on data, or on pairs (reflow)."""

    term: Literal["flow_matching"]
    source: Literal["data", "pairs"] = "pairs"
    times: Times = UniformTimes()
    anneal: Share | None = None
    """pairs: share of the round over which the noise goes from fresh to the pair's (SlimFlow); None: the pair's."""

    @property
    def needs(self) -> Needs:
        return Needs(data=self.source == "data", pairs=self.source == "pairs")
