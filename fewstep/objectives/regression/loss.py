"""Regression on what the teacher's solver made: cached ends and states, progressive targets, its denoised samples."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewstep.diffusion.noise_levels import unit_scale
from fewstep.networks.block_features import features_at
from fewstep.objectives.common.distances import high_frequency_error, per_sample, perceptual, pseudo_huber, squared
from fewstep.objectives.common.pixel_features import given
from fewstep.objectives.common.solver_steps import landing, make_hop, student_at
from fewstep.objectives.regression.settings import RegressionSettings
from fewstep.objectives.term import Loss, Term
from fewstep.objectives.term_settings import TEACHER_NETWORK
from fewstep.util.errors import SettingsError

if TYPE_CHECKING:
    from fewstep.training.step.step_context import Step

Compared = tuple[Tensor, Tensor, Tensor]
"""The student's x0, its target (N, ...), and the noise ratio nu (N,) where it was predicted."""


def snr_trunc(nu: Tensor) -> Tensor:
    """max(SNR, 1) = max(1 / nu^2, 1): turns |x - x'|^2 into max(|x - x'|^2, |e - e'|^2), e the noise of one state.

    Salimans and Ho, 2202.00512, section 4. (N,) -> (N,).
    """
    return nu.clamp(max=1.0) ** -2


class Regression(Term[RegressionSettings]):
    """L = 1/2 E w d(G(x_t, t), target), d mean square, pseudo-Huber or perceptual.

    `at: noise`: x_t is the student's starting state of the noise z, the target the end of its trajectory (Luhman and
    Luhman, 2101.02388). `at: states`: (x_t, t) is a stored state of the trajectory, drawn uniformly; the target is its
    end, or the x0 that leads to the next state. `at: hops`: x_t is noised data at a time of the student's, the target
    the x0 whose one step lands where the teacher's several steps do (Salimans and Ho, 2202.00512, algorithm 2).
    `at: samples`: the student's own sample against the teacher's denoised one (Sauer et al., 2311.17042, eq. 4).

    `high_frequencies` adds lambda |H x - H x'|^2, H what passes above a spatial frequency. HiPA (2311.18158) trains
    adapters with a spatial and a high-frequency part of the difference to the sample of many steps, because one step
    lacks those frequencies; its filters are not known here, so H is the plain radial one. Both parts are zero at the
    same student, so lambda moves no optimum, only where an adapter of low rank spends its error.
    """


    def prepare(self, step: "Step", seed: int) -> None:
        s = self.settings
        self._features = None
        if s.distance == "perceptual" and s.extractor:
            self._features = given(s.extractor, step)

    def loss(self, step: "Step") -> Loss:
        s = self.settings
        compare = {"noise": self._noise, "states": self._states, "hops": self._hops, "samples": self._samples}[s.at]
        student, target, nu = compare(step)
        distance = self._distance(step)(student, target)
        if s.high_frequencies:
            distance = distance + s.high_frequencies * high_frequency_error(student, target, s.cutoff)
        if s.weighting == "snr_trunc":
            distance = distance * snr_trunc(nu)
        elif s.weighting == "alpha":
            distance = distance / unit_scale(nu)
        return 0.5 * distance.mean(), {}

    def _noise(self, step: "Step") -> Compared:
        x_t, t = step.shared.start(step.batch.pair["noise"]), step.draws.full(step.grid[0])
        return step.student.predict(x_t, t, step.batch.condition).x0, step.batch.pair["x"], step.levels.ratio(t)

    def _states(self, step: "Step") -> Compared:
        states, times = step.batch.pair.get("states"), step.batch.pair.get("times")
        if states is None or times is None:
            raise SettingsError("regression at states needs a trajectory set with states (trajectories.keep)")
        chosen = step.draws.integers("state", states.shape[1])
        x_t, t = states[step.draws.rows, chosen], times[chosen]
        student = step.student.predict(x_t, t, step.batch.condition).x0
        if self.settings.to == "end":
            return student, step.batch.pair["x"], step.levels.ratio(t)
        process = step.student.process
        alpha = torch.cat([process.alpha(times), times.new_ones(1)])  # behind the last state come clean samples
        sigma = torch.cat([process.sigma(times), times.new_zeros(1)])
        following = torch.cat([states[:, 1:], step.batch.pair["x"][:, None]], 1)[step.draws.rows, chosen]
        ends = (per_sample(f[chosen + k], x_t) for k in (0, 1) for f in (alpha, sigma))
        return student, landing(x_t, following, *ends), step.levels.ratio(t)

    def _hops(self, step: "Step") -> Compared:
        hop = make_hop(step, self.settings.hop)
        return student_at(step, self.settings.hop).x0, hop.target, step.levels.ratio(hop.t)

    def _samples(self, step: "Step") -> Compared:
        x_t, t, _ = step.shared.noised("fake", self.settings.times)
        with torch.no_grad():
            target = step.networks["teacher"].predict(x_t, t, step.batch.condition, self.settings.hop.guidance).x0
        return step.shared.generated, target, step.levels.ratio(t)

    def _distance(self, step: "Step") -> Callable[[Tensor, Tensor], Tensor]:
        s = self.settings
        if s.distance == "l2":
            return squared
        if s.distance == "pseudo_huber":
            return partial(pseudo_huber, huber=s.huber)
        if self._features is not None:
            return partial(perceptual, features=self._features)
        network, t = step.networks[TEACHER_NETWORK], step.levels.time(step.draws.full(s.level))

        def read(x: Tensor) -> list[Tensor]:
            state = x * per_sample(step.student.process.alpha(t), x)
            return features_at(network, state, t, step.batch.condition)

        return partial(perceptual, features=read)
