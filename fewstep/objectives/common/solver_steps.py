"""Hops: one deterministic step of the student between two of its times, and where the teacher gets meanwhile."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewstep.objectives.common.distances import per_sample
from fewstep.objectives.common.solver_step_settings import HopSettings
from fewstep.util.device import sent

if TYPE_CHECKING:
    from fewstep.diffusion.denoiser import Prediction
    from fewstep.training.step.step_context import Step


@dataclass(frozen=True)
class Hop:
    """From x_t at native time t (N,) to x_s = the teacher's state at s (N,), which is t_min where the end is clean.

    alpha_t, sigma_t, alpha_s, sigma_s: (N, 1, ...) float64; exactly 1 and 0 at a clean end.
    """

    x_t: Tensor
    t: Tensor
    x_s: Tensor
    s: Tensor
    alpha_t: Tensor
    sigma_t: Tensor
    alpha_s: Tensor
    sigma_s: Tensor

    @property
    def target(self) -> Tensor:
        """The x0 whose single step lands on x_s."""
        return landing(self.x_t, self.x_s, self.alpha_t, self.sigma_t, self.alpha_s, self.sigma_s)

    def land(self, prediction: "Prediction") -> Tensor:
        """Where a prediction at (x_t, t) lands: alpha_s x0 + sigma_s epsilon."""
        return (self.alpha_s * prediction.x0 + self.sigma_s * prediction.epsilon).to(self.x_t.dtype)


def landing(x_t: Tensor, x_s: Tensor, alpha_t: Tensor, sigma_t: Tensor, alpha_s: Tensor, sigma_s: Tensor) -> Tensor:
    """The x0 whose DDIM step from x_t lands on x_s: (N, ...), in x_t's type (Salimans and Ho, 2202.00512, appendix G).

    x0 = (x_s - r x_t) / (alpha_s - r alpha_t), r = sigma_s / sigma_t; at a clean end (1, 0) it is x_s. In float64: the
    denominator is small where s is near t.
    """
    ratio = sigma_s / sigma_t
    return ((x_s.double() - ratio * x_t.double()) / (alpha_s - ratio * alpha_t)).to(x_t.dtype)


@torch.no_grad()
def make_hop(step: "Step", settings: HopSettings) -> Hop:
    """A hop from noised samples at one of the student's times, drawn uniformly, by `teacher_steps` teacher steps."""

    def make() -> Hop:
        process, parts = step.student.process, settings.teacher_steps
        x0 = step.batch.data if settings.source == "data" else step.batch.pair["x"]
        first = step.draws.integers("hop", len(step.grid)) * parts
        times = torch.tensor([*step.nodes(parts), process.t_min], dtype=torch.float64)
        alpha, sigma = process.alpha(times), process.sigma(times)
        alpha[-1], sigma[-1] = 1.0, 0.0
        times, alpha, sigma = (sent(values, x0.device) for values in (times, alpha, sigma))

        def at(values: Tensor, j: int) -> Tensor:
            return per_sample(values[first + j], x0)

        t = times[first]
        x_t = process.add_noise(x0, step.draws.normal("hop-noise", like=x0), t)
        x = x_t
        for j in range(parts):
            found = step.networks["teacher"].predict(x, times[first + j], step.batch.condition, settings.guidance)
            x = (at(alpha, j + 1) * found.x0 + at(sigma, j + 1) * found.epsilon).to(x0.dtype)
        ends = at(alpha, 0), at(sigma, 0), at(alpha, parts), at(sigma, parts)
        return Hop(x_t, t, x, times[first + parts], *ends)

    return step.once(("hop", repr(settings)), make)


def student_at(step: "Step", settings: HopSettings) -> "Prediction":
    """The student's prediction at the start of the hop; one call however many terms ask."""

    def make() -> "Prediction":
        hop = make_hop(step, settings)
        with torch.set_grad_enabled(step.role == "student"):
            return step.student.predict(hop.x_t, hop.t, step.batch.condition)

    return step.once(("hop-student", repr(settings)), make)
