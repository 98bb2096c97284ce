"""Denoising score matching: what trains a teacher on data, and a fake score on the student's samples."""

from typing import TYPE_CHECKING

from torch import Tensor

from fewstep.diffusion.prediction import from_pair
from fewstep.objectives.common.distances import per_sample, squared
from fewstep.objectives.denoising.settings import DenoisingSettings
from fewstep.objectives.term import Loss, Term

if TYPE_CHECKING:
    from fewstep.diffusion.denoiser import Denoiser, Prediction
    from fewstep.training.step.step_context import Step


def own_error(denoiser: "Denoiser", prediction: "Prediction", x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Squared error of what the network itself predicts, mean over dimensions: (N,).

    epsilon |e - z|^2 (Ho et al., 2006.11239, eq. 14); v = alpha z - sigma x of the state scaled to unit variance
    (Salimans and Ho, 2202.00512); flow z - x (Lipman et al., 2210.02747); sample (1 + 1 / nu^2) |x' - x|^2 with
    nu = sigma / alpha, the weight that makes the error of a preconditioned network unit-sized for unit data (Karras et
    al., 2206.00364, table 1).
    """
    kind, process = denoiser.prediction_type, denoiser.process
    alpha, sigma = per_sample(process.alpha(t), x0), per_sample(process.sigma(t), x0)
    output = from_pair(prediction.x0, prediction.epsilon, alpha, sigma, kind)
    error = squared(output, from_pair(x0, noise, alpha, sigma, kind))
    if kind == "v_prediction":
        return error / (alpha.square() + sigma.square()).flatten()
    return error * (1 + (alpha / sigma).square()).flatten() if kind == "sample" else error


class Denoising(Term[DenoisingSettings]):
    """E |network(x_t, t) - target|^2 over data x, noise z and time t."""


    def loss(self, step: "Step") -> Loss:
        student, x0, noise = step.student, step.batch.data, step.draws.normal("noise", like=step.batch.data)
        t = step.times(self.settings.times)
        condition = step.batch.dropped_condition(self.settings.class_dropout)
        x_t = student.process.add_noise(x0, noise, t)
        prediction = student.predict(x_t, t, condition, second=t if self.settings.at_own_time else None)
        return own_error(student, prediction, x0, noise, t).mean(), {}
