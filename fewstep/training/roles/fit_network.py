"""Weights for a teacher that has none: a small residual MLP fitted to a closed-form denoiser.

For such a teacher "init: teacher" and "features of the teacher" mean this network; scores, samples and trajectories
stay exact.
"""

import copy

import torch

from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.noise_level_settings import UniformTimes
from fewstep.objectives.common.distances import squared
from fewstep.recipes.training_settings import OptimiserSettings
from fewstep.teachers.mixture import GaussianMixture
from fewstep.training.digests import tensor_digest
from fewstep.training.loss_meter import Figures
from fewstep.training.optimiser import RoleOptimiser
from fewstep.training.roles.ema import Average
from fewstep.training.roles.fresh_networks import fresh_network
from fewstep.training.step.batches import ExactData, Sources
from fewstep.training.step.keyed_draws import Draws
from fewstep.training.step.step_context import Step, StepSetup

STEPS, BATCH = 1000, 256
HINT = "look at the teacher's means and deviations: the network is fitted best to samples of a size about 1"
SETTINGS = OptimiserSettings(lr=2e-3, schedule="cosine", warmup=0.05)


_fitted: dict[tuple, Denoiser] = {}


def stand_in(teacher: GaussianMixture, seed: int, device: torch.device) -> Denoiser:
    """The network fitted to this teacher; the last few are remembered, so that several recipes share one fit."""
    key = (str(teacher.describe()), tensor_digest(teacher.state_dict()), seed, str(device))
    if key not in _fitted:
        if len(_fitted) >= 4:
            _fitted.pop(next(iter(_fitted)))
        _fitted[key] = fit(teacher, seed, device)
    return copy.deepcopy(_fitted[key])


def fit(teacher: GaussianMixture, seed: int, device: torch.device | str = "cpu", steps: int = STEPS) -> Denoiser:
    """A residual MLP fitted to the teacher's v at noised exact samples, over all noise levels, for `steps` updates.

    Raises NonFinite, naming the step, if a loss or gradient is NaN or infinite; on a GPU at the end, without waiting.
    """
    device = torch.device(device)
    student = fresh_network(teacher, seed).to(device)
    teacher = teacher.to(device)
    optimiser = RoleOptimiser({"student": student}, SETTINGS)
    average = Average(student, 0.99)
    networks = {"student": student, "teacher": teacher}
    setup = StepSetup(networks, [teacher.process.t_max], Sources(data=ExactData(teacher)))
    figures = Figures("the network fitted to the closed-form teacher", HINT)
    for k in range(steps):
        draws = Draws(seed, -1, k, BATCH, device)
        step = Step(setup, "student", draws)
        x0, t, condition = step.batch.data, step.times(UniformTimes()), step.batch.condition
        x_t = teacher.process.add_noise(x0, step.draws.normal("noise"), t)
        with torch.no_grad():
            target = teacher.predict(x_t, t, condition).as_type("v_prediction").float()
        found = student.predict(x_t, t, condition).as_type("v_prediction")
        loss = (squared(found, target) / teacher.process.scale(t).square()).mean()
        figures.require_finite(k, "the fit", "student", loss.detach())
        loss.backward()
        norm = optimiser.norm()
        figures.require_finite(k, "the fit", "student", norm, "the gradient of ")
        optimiser.step((k + 1) / (steps + 1), norm)
        average.update(k)
    figures.check()
    student.load_state_dict(average.weights)
    return student.requires_grad_(False).eval()
