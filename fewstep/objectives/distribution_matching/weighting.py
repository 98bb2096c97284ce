"""Weights of noise levels in distribution matching, as factors of differences of clean samples."""

from typing import TYPE_CHECKING

from torch import Tensor

from fewstep.diffusion.made_of_tensors import as_double
from fewstep.diffusion.noise_levels import distribution
from fewstep.util.errors import SettingsError

if TYPE_CHECKING:
    from fewstep.objectives.distribution_matching.settings import DistributionMatchingSettings
    from fewstep.training.step.step_context import Step


def normaliser(x: Tensor, teacher: Tensor) -> Tensor:
    """1 / mean |x - teacher|, (N, ...) -> (N,): the teacher's own error at this level (2311.18828, eq. 8)."""
    return 1 / (x - teacher).abs().flatten(1).mean(1).clamp_min(1e-5)


def level_weight(
    settings: "DistributionMatchingSettings", step: "Step", t: Tensor, x: Tensor, teacher: Tensor
) -> Tensor:
    """(N,) weight at native times t, without a gradient; nu = sigma / alpha.

    normalised: `normaliser` (DMD, SiD). x0: 1. epsilon: 1 / nu, a difference of predicted noises (VSD, 2305.16213).
    likelihood: 2 D / nu^2 over the density of log nu among the times drawn, D dimensions. With it the score identity at
    alpha = 1/2, a mean over dimensions, has the gradient of the KL divergence of the clean samples, in its own units:
    KL = integral of E |teacher - fake|^2 / nu^2 dlog nu (Song et al., 2101.09258, theorem 1, in noise ratios; I-MMSE).
    """
    if settings.weighting == "normalised":
        return normaliser(x.detach(), teacher.detach())
    nu = step.levels.ratio(as_double(t))
    if settings.weighting == "x0":
        return nu.new_ones(nu.shape).float()
    if settings.weighting == "epsilon":
        return (1 / nu).float()
    if settings.weighting == "likelihood":
        return (2 * x[0].numel() / (nu.square() * distribution(settings.times, step.levels).density(t))).float()
    raise SettingsError(f"unknown weighting {settings.weighting!r}")
