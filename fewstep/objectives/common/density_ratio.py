"""The ratio of the data's density to the student's, as one term of a round estimates it for another."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor

from fewstep.diffusion.noise_level_settings import Times
from fewstep.util.errors import SettingsError

if TYPE_CHECKING:
    from fewstep.training.step.step_context import Step


class EstimatesDensityRatio(ABC):
    """A term that can tell the ratio."""

    @abstractmethod
    def log_ratio(self, step: "Step", samples: str, times: Times) -> Tensor | None:
        """log p_data / p_student (size,) at `step.shared.raised(samples, times)`, without a gradient; None with
        settings by which the term cannot tell it."""


def log_ratio(step: "Step", samples: str, times: Times) -> Tensor:
    """log p_data / p_student (size,) at `step.shared.raised(samples, times)`, without a gradient.

    Raises SettingsError if no term of the round estimates it.
    """
    for term in step.terms:
        if isinstance(term, EstimatesDensityRatio):
            estimate = term.log_ratio(step, samples, times)
            if estimate is not None:
                return estimate.detach()
    raise SettingsError("no term of the round estimates the ratio of densities; add `term: adversarial`")
