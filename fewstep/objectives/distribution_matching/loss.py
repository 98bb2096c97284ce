"""The term: its two turns, and how its settings choose among the equations of this folder."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewstep.diffusion.guidance import Scales, is_guided
from fewstep.diffusion.made_of_tensors import as_double
from fewstep.diffusion.processes import like
from fewstep.objectives.common.density_ratio import log_ratio
from fewstep.objectives.common.distances import per_sample, pseudo_huber, squared
from fewstep.objectives.denoising.loss import own_error
from fewstep.objectives.distribution_matching.correction import corrected
from fewstep.objectives.distribution_matching.divergences import WEIGHTS
from fewstep.objectives.distribution_matching.score_identity import expanded_divergence
from fewstep.objectives.distribution_matching.settings import DistributionMatchingSettings, RandomGuidance
from fewstep.objectives.distribution_matching.weighting import level_weight
from fewstep.objectives.term import Judged, Loss, Term
from fewstep.util.errors import SettingsError

if TYPE_CHECKING:
    from fewstep.training.step.step_context import Step

JUDGED = {"samples": "fake", "phases": "phases"}


class DistributionMatching(Term[DistributionMatchingSettings]):
    """Student: descends D_f(teacher | student) of noised samples. Fake score: denoising of the student's samples.

    `score_difference`: the loss is 1/2 |x - sg(x - w h(r) (fake - teacher))|^2, all three clean samples: x of the
    student, the others the denoised x_t. In expectation fake - teacher is nu^2 alpha times the difference of the
    scores, and -E h(r) (grad log p_teacher - grad log p_student) dx is the gradient of D_f (f-distill, 2502.15681,
    theorem 1). With h = 1: DMD (Yin et al., 2311.18828, eq. 7), Diff-Instruct (2305.18455) and VSD (2305.16213) by the
    weight w. The loss is a surrogate: its gradient means something, its value does not.

    `score_identity`: the loss is w times `expanded_divergence`; SiD, SIM, Uni-Instruct.

    Several steps: `at: samples` compares the student's prediction of clean samples at a random step (DMD2, 2405.14867,
    section 4.5), `phases` its state at the end of that step with the teacher's marginal of that level, both noised on
    within the step's interval (TDM, Luo et al., 2503.06674). The fake score then learns from noised states
    (`raise_level`), so that nothing but the states needs to follow the teacher's marginals.
    """


    def prepare(self, step: "Step", seed: int) -> None:
        if self.settings.correction is not None and len(step.grid) > 1:
            raise SettingsError("distribution_matching: correction is for students of one step")

    def loss(self, step: "Step") -> Loss:
        if step.role == "fake_score":
            return self._fake_score(step)
        if self.settings.correction is not None:
            return self._corrected(step)
        return self._identity(step) if self.settings.gradient == "score_identity" else self._difference(step)

    def differentiates(self, role: str) -> bool:
        return self.settings.gradient == "score_identity" and role in ("teacher", "fake_score")

    def predictions(self, turn: str) -> list[Judged]:
        s, fake = self.settings, Judged("fake_score", self._what, self.settings.times)
        if turn == "fake_score":
            return [fake]
        if s.correction is not None:  # its chain calls the networks itself
            return []
        plain = not isinstance(s.guidance, RandomGuidance) and not is_guided(s.guidance)
        return [Judged("teacher", self._what, s.times), fake] if plain else [fake]

    @property
    def _what(self) -> str:
        return JUDGED[self.settings.at]

    def _scores(self, step: "Step") -> tuple[Tensor, Tensor]:
        """Clean samples predicted by teacher and fake score from the student's noised samples."""
        s = self.settings
        teacher = step.shared.judged("teacher", self._what, s.times, self._guidance(step)).x0
        return teacher, step.shared.judged("fake_score", self._what, s.times).x0

    def _guidance(self, step: "Step") -> Scales | Tensor:
        """Guidance of each sample. A random one is PG-SB's (SNOOPI, Nguyen et al., 2412.02687, section 4.1)."""
        s = self.settings.guidance
        return s.low + (s.high - s.low) * step.draws.uniform("guidance") if isinstance(s, RandomGuidance) else s

    def _ratio(self, step: "Step") -> Tensor | None:
        """r (N,) of the noised samples; None where the divergence needs none."""
        if self.settings.divergence == "reverse_kl":
            return None
        low, high = self.settings.ratio_limits
        return log_ratio(step, self._what, self.settings.times).float().exp().clamp(low, high)

    def _difference(self, step: "Step") -> Loss:
        s, x = self.settings, step.shared.generated
        t = step.shared.raised(self._what, s.times).t
        teacher, fake = (score.detach() for score in self._scores(step))
        weight, figures = level_weight(s, step, t, x, teacher), {}
        ratio = self._ratio(step)
        if ratio is not None:
            h = WEIGHTS[s.divergence].h(ratio)
            weight, figures = weight * h / h.mean(), {"ratio": ratio.mean()}
        return self._surrogate(x, per_sample(weight, x) * (fake - teacher)), {
            "distance": (fake - teacher).square().mean().sqrt(),
            **figures,
        }

    def _identity(self, step: "Step") -> Loss:
        s, process = self.settings, step.student.process
        at = step.shared.raised(self._what, s.times)
        teacher, fake = self._scores(step)
        weight, figures, ratio = level_weight(s, step, at.t, at.x0, teacher), {}, self._ratio(step)
        if ratio is None:
            ratio = torch.ones_like(weight)
        else:
            figures = {"ratio": ratio.mean()}
            weight = weight / WEIGHTS[s.divergence].h(ratio).mean()
        factor = (process.alpha(as_double(at.t)) / process.sigma(as_double(at.t)).square()).float()
        loss = expanded_divergence(
            at.x0, at.x, teacher, fake, s.alpha, WEIGHTS[s.divergence], ratio, factor
        )  # fmt: skip
        distance = (fake - teacher).detach().square().mean().sqrt()
        return (weight * loss).mean(), {"distance": distance, **figures}

    def _corrected(self, step: "Step") -> Loss:
        s, process, chain = self.settings, step.student.process, self.settings.correction
        t, guidance = step.times(s.times, "chain/times"), self._guidance(step)
        alpha, sigma = process.alpha(as_double(t)), process.sigma(as_double(t))
        networks, condition, first = step.networks, step.batch.condition, step.draws.full(step.grid[0])

        def generate(z: Tensor) -> Tensor:
            return step.student.predict(step.shared.start(z), first, condition).x0

        weights: list[Tensor] = []  # of each step of the chain; that of the last one is used

        @torch.no_grad()
        def difference(x: Tensor, x_t: Tensor) -> Tensor:
            teacher = networks["teacher"].predict(x_t, t, condition, guidance)
            weights.append(level_weight(s, step, t, x, teacher.x0))
            return teacher.score - networks["fake_score"].predict(x_t, t, condition).score

        start, noise = (step.draws.normal(name) for name in ("generator", "chain/noise"))
        latent, drift = corrected(generate, difference, start, noise, alpha, sigma, step.draws.normal, chain)
        x = generate(latent)
        pull = like(sigma / alpha, x) * drift  # without a chain: teacher - fake
        figures = {"distance": pull.square().mean().sqrt()}
        return self._surrogate(x, -per_sample(weights[-1], x) * pull), figures

    def _surrogate(self, x: Tensor, direction: Tensor) -> Tensor:
        """1/2 mean |x - sg(x - direction)|^2: its gradient to x is direction / dimensions, averaged over the batch.

        With `huber` the pseudo-Huber distance of the two instead, whose gradient has a length below 1.
        """
        target = (x - direction).detach()
        if self.settings.huber is not None:
            return pseudo_huber(x, target, self.settings.huber).mean()
        return 0.5 * squared(x, target).mean()

    def _fake_score(self, step: "Step") -> Loss:
        at = step.shared.raised(self._what, self.settings.times)
        prediction = step.shared.judged("fake_score", self._what, self.settings.times)
        error = own_error(step.networks["fake_score"], prediction, at.x0, at.noise, at.t)
        return (at.weight * error).mean(), {}
