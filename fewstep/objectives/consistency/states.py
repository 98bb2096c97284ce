"""States in the coordinates in which every process is the same: x / alpha at the noise ratio nu = sigma / alpha.

There the probability-flow ODE is dx/dnu = epsilon(x, nu) (Karras et al., 2206.00364, eq. 3), DDIM is Euler's method,
and the clean end is nu = 0.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewstep.diffusion.noise_levels import unit_scale
from fewstep.diffusion.processes import like

if TYPE_CHECKING:
    from fewstep.diffusion.denoiser import Denoiser, Prediction
    from fewstep.training.step.step_context import Step


@dataclass(frozen=True)
class State:
    """x (N, ...) = x0 + nu noise at the noise ratios nu (N,) float64; nu may be 0."""

    x: Tensor
    nu: Tensor

    @classmethod
    def noised(cls, x0: Tensor, noise: Tensor, nu: Tensor) -> "State":
        """x0 + nu noise."""
        return cls(x0 + like(nu, x0) * noise, nu)

    @property
    def unit(self) -> Tensor:
        """The state scaled as a variance-preserving process has it: x / sqrt(1 + nu^2)."""
        return self.x / like(unit_scale(self.nu), self.x)


def time_of(step: "Step", nu: Tensor) -> Tensor:
    """Native time (N,) float64 of noise ratios, held where they are finite and not zero in the student's process."""
    return step.levels.exact_time(nu)


def predict(step: "Step", denoiser: "Denoiser", state: State, **inputs: Tensor | float | None) -> "Prediction":
    """What `denoiser` says at this state, under the step's condition; `inputs` as Denoiser.predict takes them."""
    t = time_of(step, state.nu)
    return denoiser.predict(state.x * like(denoiser.process.alpha(t), state.x), t, step.batch.condition, **inputs)


def towards(prediction: "Prediction", nu: Tensor) -> State:
    """The state at the lower nu (N,) to which a straight step (DDIM; Song et al., 2010.02502, eq. 12) leads."""
    return State.noised(prediction.x0, prediction.epsilon, nu)


def chosen(mask: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Rows of `one` where mask (N,), else of `other`, (N, ...) each."""
    return torch.where(mask.reshape(-1, *[1] * (one.ndim - 1)), one, other)
