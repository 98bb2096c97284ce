"""Continuous-time consistency: the student's tangent along the flow vanishes."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fewstep.diffusion.processes import like
from fewstep.networks.gradient_checkpointing import is_checkpointed
from fewstep.objectives.common.derivatives import jvp
from fewstep.objectives.common.distances import squared
from fewstep.objectives.consistency.point_pairs import stored_count, stored_state
from fewstep.objectives.consistency.states import State, predict, time_of
from fewstep.objectives.continuous_consistency.settings import ContinuousConsistencySettings
from fewstep.objectives.term import Loss, Term

if TYPE_CHECKING:
    from fewstep.diffusion.denoiser import Prediction
    from fewstep.training.step.step_context import Step


def tangent(u: Tensor, own: Tensor, slope: Tensor, velocity: Tensor, angle: Tensor, share: float) -> Tensor:
    """g = -cos^2 (F - v) - share (cos sin u + dF/dlog nu), (N, ...): cos times df/dphi of f = cos u - sin F at share 1.

    Lu and Song, Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models (2410.11081), eq. 6 and 8, at
    unit data deviation. u: the state at unit variance, v = du/dphi along the flow, phi = atan(sigma / alpha), own = F,
    slope = dF/dlog nu along the flow; cos sin d/dphi is d/dlog nu. (N, ...) each, angle (N,).
    """
    cos, sin = like(angle.cos(), u), like(angle.sin(), u)
    return -cos.square() * (own - velocity) - share * (cos * sin * u + slope)


def normalised(g: Tensor, floor: float) -> Tensor:
    """g / (|g| + floor), |.| the root of the mean square over dimensions."""
    size = g.flatten(1).square().mean(1).sqrt()
    return g / like(size + floor, g)


def unit_velocity(prediction: "Prediction") -> Tensor:
    """cos epsilon - sin x0: the prediction as the velocity du/dphi of the unit-variance state; TrigFlow's F."""
    spread = like(prediction.process.scale(prediction.t), prediction.x)
    return prediction.as_type("v_prediction") / spread


class LevelWeight(nn.Module):
    """A learnt log-variance of the loss at each angle phi (N,) -> (N,), linear in cosines and sines; 0 at the start."""

    def __init__(self, frequencies: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(2 * frequencies + 1))

    def forward(self, angle: Tensor) -> Tensor:
        frequencies = torch.arange(1, (len(self.weights) + 1) // 2, device=angle.device)
        phases = angle.to(self.weights.dtype)[:, None] * frequencies
        return torch.cat([torch.ones_like(phases[:, :1]), phases.cos(), phases.sin()], dim=1) @ self.weights


class ContinuousConsistency(Term[ContinuousConsistencySettings]):
    """L = E e^-q |F - sg F - g / (|g| + c)|^2 + q, q a learnt function of the noise level.

    Lu and Song (2410.11081), section 4: TrigFlow in any process by its angle, tangent normalisation and warm-up,
    adaptive weighting (their factor 1 / nu before it is another start of q, whose optimum is the same); the velocity
    is the teacher's (sCD) or that of data and noise (sCT). The derivative is taken in float32 whatever the precision of
    the run. On stored states of the teacher this is TBCM (2511.20410; derived from its abstract: the same tangent, at
    the points where generation goes).
    """


    def prepare(self, step: "Step", seed: int) -> None:
        self.heads = {"student": LevelWeight(self.settings.width).to(step.draws.full(0.0).device)}

    def loss(self, step: "Step") -> Loss:
        s = self.settings
        state, velocity = self._points(step)
        angle = state.nu.atan()
        own, slope = self._differenced(step, state, velocity) if s.difference else self._derived(step, state, velocity)
        share = min(1.0, step.progress / s.warmup) if s.warmup else 1.0
        fixed = own.detach()
        g = tangent(state.unit, fixed, slope, velocity, angle, share)
        error = squared(own, fixed + normalised(g, s.tangent_floor))
        level = self.heads["student"](angle)
        loss = (error / level.exp() + level).mean()
        return loss, {"tangent": g.square().mean().sqrt(), "error": error.mean().detach()}

    def _derived(self, step: "Step", state: State, velocity: Tensor) -> tuple[Tensor, Tensor]:
        """F and dF/dlog nu along the flow by forward differentiation, F with a graph."""
        process, t = step.student.process, time_of(step, state.nu)

        def own(x: Tensor, t: Tensor) -> Tensor:
            return unit_velocity(step.student.predict(x, t, step.batch.condition, **step.batch.scale_input))

        x = state.x * like(process.alpha(t), state.x)
        direction = self._direction(step, state, velocity, t)
        return jvp(own, (x, t), direction, twice=is_checkpointed(step.student.network))

    def _differenced(self, step: "Step", state: State, velocity: Tensor) -> tuple[Tensor, Tensor]:
        """F, and its difference to F a straight step nearer to the data, over the difference in log nu."""
        x0, epsilon = _pair(state, velocity)
        nearer = State.noised(x0, epsilon, state.nu * math.exp(-self.settings.difference))
        with torch.autocast(velocity.device.type, enabled=False):
            own = unit_velocity(predict(step, step.student, state, **step.batch.scale_input))
            with torch.no_grad():
                before = unit_velocity(predict(step, step.student, nearer, **step.batch.scale_input))
        return own, (own.detach() - before) / self.settings.difference

    def _points(self, step: "Step") -> tuple[State, Tensor]:
        """A state and the velocity du/dphi of the flow there."""
        points = self.settings.points
        if points.kind == "data":
            noise = step.draws.normal("noise", like=step.batch.data)
            state = State.noised(step.batch.data, noise, step.levels.ratio(step.times(points.times)).double())
        else:
            state = stored_state(step, step.draws.integers("state", stored_count(step)))
        if self.settings.velocity == "data":
            angle = state.nu.atan()
            return state, like(angle.cos(), noise) * noise - like(angle.sin(), noise) * step.batch.data
        guidance = step.batch.guidance(self.settings.guidance)
        with torch.no_grad():
            return state, unit_velocity(predict(step, step.networks["teacher"], state, guidance=guidance))

    @staticmethod
    def _direction(step: "Step", state: State, velocity: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(dx/dlog nu, dt/dlog nu) along the flow in the process's own coordinates."""
        process = step.student.process
        alpha, sigma = process.alpha(t), process.sigma(t)
        alpha_slope, sigma_slope = process.derivatives(t)
        rate = alpha * sigma / (sigma_slope * alpha - alpha_slope * sigma)
        x0, epsilon = _pair(state, velocity)
        return like(rate * alpha_slope, x0) * x0 + like(rate * sigma_slope, x0) * epsilon, rate


def _pair(state: State, velocity: Tensor) -> tuple[Tensor, Tensor]:
    """(x0, epsilon) of which cos x0 + sin epsilon is the state at unit variance, cos epsilon - sin x0 its velocity."""
    angle = state.nu.atan()
    cos, sin, unit = like(angle.cos(), velocity), like(angle.sin(), velocity), state.unit
    return cos * unit - sin * velocity, sin * unit + cos * velocity
