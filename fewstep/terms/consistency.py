"""Consistency: predictions at two points of one path agree, the nearer one being the target."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewstep.recipes import terms as settings
from fewstep.terms.base import Loss, Term
from fewstep.terms.distances import per_sample, pseudo_huber

if TYPE_CHECKING:
    from fewstep.training.step import Step


def nearer(nu: Tensor, stage: int, q: float, k: float, b: float, cap: float) -> Tensor:
    """The lower noise ratio r of a pair (Geng et al., 2406.14548, section 3.2): (N,) -> (N,), 0 <= r <= cap * nu.

    r = nu max(0, 1 - q^-(stage + 1) (1 + k sigmoid(-b nu))): at stage 0 mostly 0 (denoising), later ever nearer to nu.
    """
    ratio = 1 - q ** -(stage + 1) * (1 + k * torch.sigmoid(-b * nu))
    return nu * ratio.clamp(0, cap)


class Consistency(Term[settings.Consistency]):
    """L = E d(G(x_t, t), sg G(x_r, r)) / (nu_t - nu_r), x_t and x_r with the same noise, d pseudo-Huber.

    Geng et al., Consistency Models Made Easy (2406.14548). Noise levels are ratios nu = sigma / alpha, so that the
    formula of the variance-exploding process holds in any process. Where r reaches the process's end the target is the
    data itself.
    """

    name = "consistency"

    def loss(self, step: "Step") -> Loss:
        s, student = self.settings, step.student
        x0, noise = step.data, step.normal("noise", like=step.data)
        t = step.times(s.times)
        nu = step.noise_ratio(t)
        stage = min(int(step.progress * s.stages), s.stages - 1)
        r = nearer(nu, stage, s.q, s.k, s.b, s.ratio_cap)
        r = torch.where(r > step.least_noise_ratio, r, torch.zeros_like(r))

        prediction = student.predict(student.process.add_noise(x0, noise, t), t, step.condition).x0
        target = x0
        if bool((r > 0).any()):
            with torch.no_grad():
                t_r = step.time_of_ratio(r.clamp_min(step.least_noise_ratio))
                before = student.predict(student.process.add_noise(x0, noise, t_r), t_r, step.condition).x0
                target = torch.where(per_sample(r > 0, x0), before, x0)
        distance = pseudo_huber(prediction, target, s.huber)
        return (distance / (nu - r)).mean(), {"gap": ((nu - r) / nu).mean().detach()}
