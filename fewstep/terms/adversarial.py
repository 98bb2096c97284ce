"""Adversarial: a head on a network's inner features tells noised samples of the student from noised data."""

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn.functional import softplus

from fewstep.recipes import terms as settings
from fewstep.terms.base import Loss, Term
from fewstep.terms.heads import FeatureHead

if TYPE_CHECKING:
    from fewstep.training.step import Step


def student_loss(fake: Tensor) -> Tensor:
    """softplus(-D(fake)), the non-saturating loss (Goodfellow et al., 1406.2661): (N,) logits -> scalar."""
    return softplus(-fake).mean()


def critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """softplus(-D(real)) + softplus(D(fake)): (N,), (N,) logits -> scalar; 2 log 2 where it cannot tell."""
    return softplus(-real).mean() + softplus(fake).mean()


class Adversarial(Term[settings.Adversarial]):
    """GAN head of DMD2 (Yin et al., 2405.14867, section 4.3), trained in the turn of the network it reads."""

    name = "adversarial"

    def prepare(self, step: "Step", seed: int) -> None:
        features = step.judged(self.settings.features, "fake", self.settings.times)[1]
        head = FeatureHead([f.shape[1] for f in features], self.settings.width, seed)
        self.heads = {self.settings.features: head.to(features[0].device)}

    def loss(self, step: "Step") -> Loss:
        role = self.settings.features
        head = self.heads[role]
        fake = head(step.judged(role, "fake", self.settings.times)[1])
        if step.role == "student":
            return student_loss(fake), {}
        real = head(step.judged(role, "real", self.settings.times)[1])
        accuracy = 0.5 * ((real > 0).float().mean() + (fake < 0).float().mean())
        return critic_loss(real, fake), {"accuracy": accuracy.detach()}

    def weight(self, role: str) -> float:
        return self.settings.weight if role == "student" else self.settings.critic_weight

    def reads_features(self, role: str) -> bool:
        return role == self.settings.features
