"""Adversarial: heads on inner features tell noised samples of the student from noised real ones."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from fewstep.diffusion.made_of_tensors import as_double
from fewstep.diffusion.noise_level_settings import Times
from fewstep.diffusion.noise_levels import unit_scale
from fewstep.diffusion.processes import like
from fewstep.networks.block_features import features_at
from fewstep.networks.state_layout import layout_of
from fewstep.objectives.adversarial.settings import AdversarialSettings
from fewstep.objectives.common.compared_states import compared_states
from fewstep.objectives.common.condition_summary import summary_of
from fewstep.objectives.common.density_ratio import EstimatesDensityRatio
from fewstep.objectives.common.feature_heads import FeatureHeads
from fewstep.objectives.common.pixel_features import OwnFeatures, given
from fewstep.objectives.common.solver_steps import make_hop, student_at
from fewstep.objectives.term import Judged, Loss, Term
from fewstep.objectives.term_settings import DENSITY_RATIO, TEACHER_NETWORK
from fewstep.util.device import sent

if TYPE_CHECKING:
    from fewstep.training.step.step_context import Step


def student_loss(fake: Tensor) -> Tensor:
    """softplus(-D(fake)), the non-saturating loss (Goodfellow et al., 1406.2661): logits -> scalar."""
    return softplus(-fake).mean()


def critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """softplus(-D(real)) + softplus(D(fake)): logits -> scalar; 2 log 2 where it cannot tell. Optimum: log p/q."""
    return softplus(-real).mean() + softplus(fake).mean()


def student_hinge(fake: Tensor) -> Tensor:
    """-D(fake): logits -> scalar."""
    return -fake.mean()


def critic_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """max(0, 1 - D(real)) + max(0, 1 + D(fake)) (Lim and Ye, 1705.02894): logits -> scalar. Optimum: sign(p - q)."""
    return relu(1 - real).mean() + relu(1 + fake).mean()


LOSSES = {"softplus": (student_loss, critic_loss), "hinge": (student_hinge, critic_hinge)}


def gradient_norm(logits: Tensor, inputs: list[Tensor]) -> Tensor:
    """E |grad D|^2 over what the critic was given (R1; Mescheder et al., 1801.04406, eq. 9): scalar, differentiable.

    logits: (N, heads), averaged over heads, of inputs [(N, ...)], each of which requires a gradient.
    """
    found = torch.autograd.grad(logits.mean(1).sum(), inputs, create_graph=True)
    return sum(gradient.float().flatten(1).square().sum(1) for gradient in found).mean()


def change_under_noise(before: Tensor, after: Tensor, sigma: float) -> Tensor:
    """E (D(x + sigma n) - D(x))^2 / sigma^2, for small sigma E |grad D|^2 (Lin et al., 2501.08316, section 3.4)."""
    return (after - before).square().mean() / sigma**2


class Adversarial(Term[AdversarialSettings], EstimatesDensityRatio):
    """Heads on the features of the fake score, the teacher or a network for samples; softplus or hinge loss.

    `fake_score`: DMD2 (Yin et al., 2405.14867, section 4.3); the heads share the fake score's turn. `teacher`: latent
    adversarial diffusion distillation (LADD; Sauer et al., 2403.12015), the teacher frozen, differentiated to its input
    only; by `turn: fake_score` it is DMD2's of NVlabs/FastGen. `samples`: adversarial diffusion distillation (ADD;
    Sauer et al., 2311.17042). `at: hops` judges where one step lands (SDXL-Lightning; Lin et al., 2402.13929): `paired`
    D(x_t, x_s), which keeps the teacher's path, otherwise D(x_s), which gives it up for sharpness. `at: compared`
    judges what a consistency term compares (PCM; Wang et al., 2405.18407). `pool`: heads drawn from a pool that is
    refreshed (NitroFusion; Chen et al., 2412.02030); the optimiser's moments of a head outlive its weights.
    """


    def prepare(self, step: "Step", seed: int) -> None:
        s, student = self.settings, step.student
        parts: dict[str, nn.Module] = {}
        self._extract = None
        if s.features == "samples":
            if s.extractor:
                self._extract = given(s.extractor, step)
            else:
                parts["features"] = OwnFeatures(layout_of(student), s.width, seed).to(step.shared.generated)
        self.heads = {s.critic: nn.ModuleDict(parts)}
        features = self._features(step, "fake")[0]
        told = self._told(step)
        labels = 0 if told is None else told.shape[1] if told.ndim == 2 else student.labels
        heads = FeatureHeads([f.shape[1] for f in features], s.width, seed, s.pool.size if s.pool else 1, labels)
        parts["heads"] = heads.to(features[0].device)
        self.heads = {s.critic: nn.ModuleDict(parts)}

    def loss(self, step: "Step") -> Loss:
        for_student, for_critic = LOSSES[self.settings.loss]
        fake = self._judge(step, self._features(step, "fake")[0])
        if step.role == "student":
            return for_student(fake), {}
        penalty = self.settings.gradient_penalty
        features, inputs = self._features(step, "real", leaf=penalty is not None and penalty.kind == "exact")
        if penalty is not None and penalty.kind == "features":
            inputs = features = [f if f.requires_grad else f.requires_grad_() for f in features]
        real = self._judge(step, features)
        accuracy = 0.5 * ((real > 0).float().mean() + (fake < 0).float().mean())
        loss, figures = for_critic(real, fake), {"accuracy": accuracy.detach()}
        if penalty is None:
            return loss, figures
        if penalty.kind != "approximate":
            steepness = gradient_norm(real, inputs)
        else:
            disturbed = self._judge(step, self._features(step, "real", noise=penalty.sigma)[0])
            steepness = change_under_noise(real, disturbed, penalty.sigma)
        return loss + penalty.weight * steepness, {**figures, "steepness": steepness.detach()}

    def after_update(self, step: "Step") -> None:
        pool = self.settings.pool
        if pool is None or step.role != self.settings.critic:
            return
        source = step.draws.generator("refresh")
        which = (torch.rand(pool.size, generator=source) < pool.refreshed).nonzero().flatten().tolist()
        self._modules["heads"].refresh(which, source)

    def weight(self, role: str) -> float:
        return self.settings.weight if role == "student" else self.settings.critic_weight

    def reads_features(self, role: str) -> bool:
        return role == self._network

    def features(self, turn: str) -> list[Judged]:
        if self.settings.at != "samples" or self._network is None or turn != "student":
            return []
        return [Judged(self._network, "fake", self.settings.times)]

    @property
    def differentiates_twice(self) -> bool:
        penalty = self.settings.gradient_penalty
        return self._network is not None and penalty is not None and penalty.kind == "exact"

    @property
    def _network(self) -> str | None:
        """The role whose inner features are read."""
        return {"fake_score": "fake_score", "teacher": TEACHER_NETWORK}.get(self.settings.features)

    @property
    def _modules(self) -> nn.ModuleDict:
        return self.heads[self.settings.critic]

    def _judge(self, step: "Step", features: list[Tensor]) -> Tensor:
        pool, asked = self.settings.pool, None
        if pool is not None:
            order = torch.randperm(pool.size, generator=step.draws.generator("asked"))[: pool.asked]
            asked = sent(order, features[0].device)
        return self._modules["heads"](features, self._told(step), asked)

    def _told(self, step: "Step") -> Tensor | None:
        """What the heads are told of the conditions: labels (N,), of prompts a summary (N, D), or nothing."""
        condition = step.batch.condition if self.settings.labels else None
        if condition is None or step.student.table is None:
            return condition
        return step.once(("condition-summary",), lambda: summary_of(step.student, condition))

    def _features(
        self, step: "Step", what: str, leaf: bool = False, noise: float = 0.0, times: Times | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """(features, what the gradient penalty is taken to) of the student's ("fake") or real samples.

        leaf: the noised samples become an input to differentiate to. noise: added to them, as a share of their scale.
        times: noise levels other than the settings'.
        """
        s, times = self.settings, times or self.settings.times
        source = "pair" if what == "real" and s.real == "pairs" else what
        if s.at != "samples":
            return (self._at_hop if s.at == "hops" else self._at_compared)(step, what, leaf, noise)
        if not leaf and not noise and self._network:
            return step.shared.features(self._network, source, times), []
        x, t, _ = step.shared.noised(source, times)
        x = self._given(step, x, t, leaf, noise)
        return self._read(step, x, t), [x]

    def _at_hop(self, step: "Step", what: str, leaf: bool, noise: float) -> tuple[list[Tensor], list[Tensor]]:
        """As `_features`, of the state where the hop ends; with `paired` each joined by that where it begins."""
        s, hop = self.settings, make_hop(step, self.settings.hop)
        x = self._given(step, hop.land(student_at(step, s.hop)) if what == "fake" else hop.x_s, hop.s, leaf, noise)
        found = self._read(step, x, hop.s)
        if s.paired:
            begun = step.once(("hop-begun", id(self)), lambda: self._read(step, hop.x_t, hop.t))
            found = [torch.cat(both, 1) for both in zip(found, begun, strict=True)]
        return found, [x]

    def _at_compared(self, step: "Step", what: str, leaf: bool, noise: float) -> tuple[list[Tensor], list[Tensor]]:
        """As `_features`, of the states at unit variance that are compared, or of their targets, noised further.

        In x / alpha noise of the ratio m takes a state at nu to sqrt(nu^2 + m^2), whether it is clean or not.
        """
        states, targets, nu = compared_states(step)
        x, times = states if what == "fake" else targets, step.times(self.settings.times, "compared/times")
        more = step.levels.ratio(as_double(times))
        t = step.levels.exact_time((nu.square() + more.square()).sqrt())
        x = like(unit_scale(nu), x) * x + like(more, x) * step.draws.normal(f"compared/{what}", like=x)
        x = self._given(step, x * like(step.student.process.alpha(t), x), t, leaf, noise)
        return self._read(step, x, t), [x]

    def _given(self, step: "Step", x: Tensor, t: Tensor | None, leaf: bool, noise: float) -> Tensor:
        """What the critic is given: x disturbed by `noise`, as an input to differentiate to if `leaf`."""
        if noise:
            x = x + noise * spread(step, t, x) * step.draws.normal("penalty", like=x)
        return x.detach().requires_grad_() if leaf else x

    def _read(self, step: "Step", x: Tensor, t: Tensor | None) -> list[Tensor]:
        """Features of states x (N, ...) at native times t (N,), or of clean samples (None)."""
        if self._network:
            return features_at(step.networks[self._network], x, t, step.batch.condition)
        if self._extract is not None:
            return self._extract(x)
        return self._modules["features"](x / spread(step, t, x), angle(step, t), layout_of(step.student))

    def log_ratio(self, step: "Step", samples: str, times: Times) -> Tensor | None:
        if DENSITY_RATIO not in self.settings.offers:
            return None
        with torch.no_grad():
            return self._judge(step, self._features(step, samples, times=times)[0]).mean(1)


def spread(step: "Step", t: Tensor | None, x: Tensor) -> Tensor:
    """sqrt(alpha^2 + sigma^2) at native times t (N,), shaped to divide x (N, ...); 1 for clean samples (None)."""
    return like(x.new_ones(len(x)) if t is None else step.student.process.scale(t), x)


def angle(step: "Step", t: Tensor | None) -> Tensor:
    """atan(sigma / alpha) (N,) float32 at native times t, from 0 (clean samples, None) to pi / 2."""
    if t is None:
        return step.draws.full(0.0)
    return torch.atan2(step.student.process.sigma(t), step.student.process.alpha(t)).float()
