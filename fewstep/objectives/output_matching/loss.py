"""Output matching: what the student predicts at any noise level is what the live teacher predicts."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewstep.objectives.denoising.loss import own_error
from fewstep.objectives.output_matching.settings import OutputMatchingSettings
from fewstep.objectives.term import Loss, Term
from fewstep.util.errors import SettingsError

if TYPE_CHECKING:
    from fewstep.diffusion.denoiser import Denoiser, Prediction
    from fewstep.training.step.step_context import Step


def output_error(student: "Denoiser", found: "Prediction", wanted: "Prediction") -> Tensor:
    """|F_S(x_t, t) - F_T(x_t, t)|^2 in the student's own prediction type, (N,).

    The teacher's output is read as its pair (x0, eps) at the same x_t, so that the two may predict different things;
    the weight over noise levels is the one that the student's own training by denoising has (`own_error`).
    """
    t = found.t.float()
    return own_error(student, found, wanted.x0.detach(), wanted.epsilon.detach(), t)


class OutputMatching(Term[OutputMatchingSettings]):
    """L = E |F_S(x_t, t, c, s) - [F_T(x_t, t, no c) + s (F_T(x_t, t, c) - F_T(x_t, t, no c))]|^2 at noised data x_t.

    Guidance distillation (Meng et al., 2210.03142, eq. 2; only the prediction type differs): its optimum is the guided
    prediction in one pass, where s is fixed or an input of the student, drawn over its range. With s = 1 it is the
    output part of compression (Kim et al., BK-SDM, 2305.15798, eq. 2). Several scales guide each condition of a label
    by itself (fewstep.diffusion.guidance): as many calls and one more become one, as in FADA (2412.16915). Affine
    readings of one output commute with guidance, so the optimum is the same for every prediction type.

    LoRA-enhanced distillation (2312.06899) and plug-and-play distillation (2406.01954), derived from their abstracts
    (adapters, or a light guide beside a frozen base, learn the guided output): what is to be learnt is
    (s - 1) (F_T(c) - F_T(no c)), zero at s = 1, where both begin, as adapters and guide end in zeros. So this loss over
    them alone, at x_t of the guided teacher's own samples, where an unguided one's never lie.
    """


    def loss(self, step: "Step") -> Loss:
        s = self.settings
        guidance = step.batch.scale if s.guidance == "input" else s.guidance
        if guidance is None:
            raise SettingsError("output_matching: guidance: input needs a student with `guidance_input`")
        x_t, t, _ = step.shared.noised("real" if s.source == "data" else "pair", s.times)
        with torch.no_grad():
            wanted = step.networks["teacher"].predict(x_t, t, step.batch.condition, guidance)
        found = step.student.predict(x_t, t, step.batch.condition, scale=guidance if s.guidance == "input" else None)
        return output_error(step.student, found, wanted).mean(), {}
