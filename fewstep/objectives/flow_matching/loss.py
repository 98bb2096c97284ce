"""Flow matching: the velocity of the straight path between a noise and a sample."""

import math
from typing import TYPE_CHECKING

from torch import Tensor

from fewstep.objectives.common.distances import squared
from fewstep.objectives.flow_matching.settings import FlowMatchingSettings
from fewstep.objectives.term import Loss, Term

if TYPE_CHECKING:
    from fewstep.training.step.step_context import Step


def annealed(noise: Tensor, fresh: Tensor, beta: float) -> Tensor:
    """sqrt(1 - beta^2) noise + beta fresh, N(0, I) for every beta (Zhu et al., SlimFlow, 2407.12718, section 3.1)."""
    return math.sqrt(1 - beta * beta) * noise + beta * fresh


class FlowMatching(Term[FlowMatchingSettings]):
    """L = E |v(x_u, u) - (z - x)|^2, x_u = (1 - u) x + u z (Liu et al., 2209.03003, eq. 1; Lipman et al., 2210.02747).

    In any process the point at equal log-SNR is used: x_t = alpha x + sigma z is x_u up to a factor, a DDIM step is an
    Euler step of this flow, and the velocity is the difference of the predicted noise and the predicted sample. On
    pairs of a teacher's ODE this is rectified flow (reflow); on data it is ordinary flow matching. With `anneal` it
    goes from the one to the other: first the noise is independent of the sample, so that a network with fresh weights
    learns an ordinary flow, at the end it is the pair's.
    """


    def loss(self, step: "Step") -> Loss:
        if self.settings.source == "pairs":
            x0, noise = step.batch.pair["x"], step.batch.pair["noise"]
            if self.settings.anneal:
                beta = max(1 - step.progress / self.settings.anneal, 0.0)
                noise = annealed(noise, step.draws.normal("fresh-noise", like=x0), beta)
        else:
            x0, noise = step.batch.data, step.draws.normal("noise", like=step.batch.data)
        t = step.times(self.settings.times)
        x_t = step.student.process.add_noise(x0, noise, t)
        prediction = step.student.predict(x_t, t, step.batch.condition)
        return squared(prediction.epsilon - prediction.x0, noise - x0).mean(), {}
