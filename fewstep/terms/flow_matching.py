"""Flow matching: the velocity of the straight path between a noise and a sample."""

from typing import TYPE_CHECKING

from fewstep.recipes import terms as settings
from fewstep.terms.base import Loss, Term
from fewstep.terms.distances import squared

if TYPE_CHECKING:
    from fewstep.training.step import Step


class FlowMatching(Term[settings.FlowMatching]):
    """L = E |v(x_u, u) - (z - x)|^2, x_u = (1 - u) x + u z (Liu et al., 2209.03003, eq. 1; Lipman et al., 2210.02747).

    In any process the point at equal log-SNR is used: x_t = alpha x + sigma z is x_u up to a factor, a DDIM step is an
    Euler step of this flow, and the velocity is the difference of the predicted noise and the predicted sample. On
    pairs of a teacher's ODE this is rectified flow (reflow); on data it is ordinary flow matching.
    """

    name = "flow_matching"

    def loss(self, step: "Step") -> Loss:
        if self.settings.source == "pairs":
            x0, noise = step.pair["x"], step.pair["noise"]
        else:
            x0, noise = step.data, step.normal("noise", like=step.data)
        t = step.times(self.settings.times)
        x_t = step.student.process.add_noise(x0, noise, t)
        prediction = step.student.predict(x_t, t, step.condition)
        return squared(prediction.epsilon - prediction.x0, noise - x0).mean(), {}
