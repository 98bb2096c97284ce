"""Distribution matching: the student's distribution follows the difference of two scores to the teacher's."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewstep.recipes import terms as settings
from fewstep.terms.base import Loss, Term
from fewstep.terms.denoising import own_error
from fewstep.terms.distances import per_sample, squared

if TYPE_CHECKING:
    from fewstep.training.step import Step


def reverse_kl_direction(x: Tensor, teacher: Tensor, fake: Tensor) -> Tensor:
    """(fake - teacher) / mean |x - teacher|, (N, ...): ascent direction of the reverse KL at the sample x.

    Yin et al., 2311.18828, eq. 7 and 8, with the denoised x of both networks at one noised x. In expectation over the
    noise the difference of the denoised x is sigma^2 / alpha times that of the scores.
    """
    scale = (x - teacher).abs().flatten(1).mean(1).clamp_min(1e-5)
    return (fake - teacher) / per_sample(scale, x)


DIRECTIONS = {"reverse_kl": reverse_kl_direction}


class DistributionMatching(Term[settings.DistributionMatching]):
    """Student: 1/2 |x - sg(x - direction)|^2. Fake score: denoising of the student's samples.

    DMD2, Yin et al., 2405.14867. The student's loss is a surrogate: its gradient means something, its value does not.
    """

    name = "distribution_matching"

    def loss(self, step: "Step") -> Loss:
        return self._fake_score(step) if step.role == "fake_score" else self._student(step)

    def _student(self, step: "Step") -> Loss:
        x = step.generated
        x_t, t, _ = step.noised("fake", self.settings.times)
        with torch.no_grad():
            teacher = step.networks["teacher"].predict(x_t, t, step.condition, self.settings.guidance).x0
        fake = step.judged("fake_score", "fake", self.settings.times)[0].x0.detach()
        direction = DIRECTIONS[self.settings.divergence](x.detach(), teacher, fake)
        surrogate = 0.5 * squared(x, (x - direction).detach()).mean()
        return surrogate, {"distance": (fake - teacher).square().mean().sqrt().detach()}

    def _fake_score(self, step: "Step") -> Loss:
        _, t, noise = step.noised("fake", self.settings.times)
        prediction = step.judged("fake_score", "fake", self.settings.times)[0]
        error = own_error(step.networks["fake_score"], prediction, step.generated, noise, t)
        return error.mean(), {}
