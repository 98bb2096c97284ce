"""Bootstrapping: without any data, the student learns the signal along the trajectory of each noise."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewstep.diffusion.processes import like
from fewstep.objectives.bootstrap.settings import BootstrapSettings
from fewstep.objectives.common.distances import squared
from fewstep.objectives.consistency.level_pairs import pair
from fewstep.objectives.consistency.states import State, chosen, predict, towards
from fewstep.objectives.term import Loss, Term

if TYPE_CHECKING:
    from fewstep.training.step.step_context import Step


def signal(state: State, start: State) -> Tensor:
    """y (N, ...) of which `state`, and `start` of more noise, are y + nu epsilon with one epsilon."""
    share = like(state.nu / start.nu, state.x)
    return (state.x - share * start.x) / (1 - share)


class Bootstrap(Term[BootstrapSettings]):
    """L = E |y(e, s') - sg y'|^2, y' = D + (nu' / nu) (y(e, s) - D), s' the next level below s.

    Gu et al., BOOT (2306.05544), eq. 6 to 9. The student maps the noise e to the signal y of the state y + nu epsilon
    on its trajectory at the second time s. There dy/dlog nu = y - D with the teacher's D, which y' solves for D held
    fixed (a DDIM step). At the noise end y is the teacher's own prediction.
    """


    def loss(self, step: "Step") -> Loss:
        student = step.student
        nu, nu_after = pair(step, self.settings.levels)
        held = step.draws.uniform("boundary") < self.settings.boundary_share
        top = torch.full_like(nu, step.levels.start)
        nu, nu_after = torch.where(held, top, nu), torch.where(held, top, nu_after)
        t = step.draws.full(step.grid[0]).double()
        x = step.shared.start(step.draws.normal("noise"))
        start = State(x / like(student.process.scale(t), x) * like((1 + top.square()).sqrt(), x), top)
        with torch.no_grad():
            now = predict(step, student, start, second=step.levels.arrival_time(nu), **step.batch.scale_input)
            now = State(chosen(nu < top, towards(now, nu).x, start.x), nu)
            teacher = predict(step, step.networks["teacher"], now, guidance=step.batch.guidance(self.settings.guidance))
            after = towards(teacher, nu_after)
            target = chosen(held, teacher.x0, signal(after, State(start.x, torch.where(held, 2 * top, top))))
        found = predict(step, student, start, second=step.levels.arrival_time(nu_after), **step.batch.scale_input).x0
        return squared(found, target).mean(), {}
