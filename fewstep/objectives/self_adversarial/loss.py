"""Self-adversarial: one network models the data's flow at positive times, that of its own samples at negative ones."""

from typing import TYPE_CHECKING

import torch

from fewstep.objectives.common.distances import per_sample, squared
from fewstep.objectives.distribution_matching.weighting import normaliser
from fewstep.objectives.self_adversarial.settings import SelfAdversarialSettings
from fewstep.objectives.term import Loss, Term

if TYPE_CHECKING:
    from fewstep.training.step.step_context import Step


class SelfAdversarial(Term[SelfAdversarialSettings]):
    """L = E |v(x'_t, -t) - (z' - x')|^2 + rectification / 2 |x' - sg(x' - direction)|^2, x' the student's own samples.

    TwinFlow (2512.05150): no teacher, no discriminator, no fake score. The first part is flow matching of the samples
    x' noised by z', at negative times. The second is derived from the reverse KL between samples and data as they are
    noised: its gradient to x' is the difference of the two flows' predictions, (x0 at -t) - (x0 at t), the same as
    -u (v(-t) - v(t)) at flow time u, of distribution matching (2311.18828, eq. 7) with both scores by one network. At
    positive times the student is taken at a point (second time t), where it is a denoiser of the data, which another
    term (mean_velocity) must train. Gradients reach the network through x' only.
    """


    def loss(self, step: "Step") -> Loss:
        student, x = step.student, step.shared.generated
        x_t, t, noise = step.shared.noised("fake", self.settings.times)
        x_t = x_t.detach()
        point = {"second": t} if student.inputs.second_time else {}
        fake = student.predict(x_t, t, step.batch.condition, negative=True, **point)
        own = squared(fake.as_type("flow_prediction"), noise - x.detach()).mean()
        with torch.no_grad():
            real = student.predict(x_t, t, step.batch.condition, **point)
            direction = per_sample(normaliser(x, real.x0), x) * (fake.x0 - real.x0)
        pull = 0.5 * squared(x, (x - direction).detach()).mean()
        statistics = {"own": own.detach(), "distance": direction.square().mean().sqrt()}
        begun = step.progress >= self.settings.delay
        return own + (self.settings.rectification * pull if begun else 0.0), statistics
