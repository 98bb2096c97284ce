"""Features: a smaller student follows the teacher stage by stage, and in its output."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fewstep.diffusion.randomness import generator
from fewstep.networks.block_features import watched
from fewstep.networks.initial_weights import build
from fewstep.networks.network_blocks import matching, stages
from fewstep.objectives.common.distances import squared, wide
from fewstep.objectives.features.settings import FeaturesSettings
from fewstep.objectives.output_matching.loss import output_error
from fewstep.objectives.term import Loss, Term
from fewstep.objectives.term_settings import TEACHER_NETWORK

if TYPE_CHECKING:
    from fewstep.diffusion.denoiser import Prediction
    from fewstep.networks.network_facts import NetworkFacts
    from fewstep.training.step.step_context import Step


def feature_error(found: Tensor, wanted: Tensor, normalised: bool) -> Tensor:
    """E |f_S - f_T|^2, over E |f_T|^2 if normalised: (N, ...), (N, ...) -> scalar.

    Zhang et al., LAPTOP-Diff, 2404.11098, section 3.4, weight each stage's term against the largest one; dividing by
    the teacher's own size is that weight up to a factor that the stages share, without a maximum over the batch.
    """
    found, wanted = wide(found), wide(wanted)
    error = squared(found, wanted).mean()
    if not normalised:
        return error
    return error / squared(wanted, torch.zeros_like(wanted)).mean().clamp_min(1e-12)


class Features(Term[FeaturesSettings]):
    """L = output * |F_S - F_T|^2 + mean over stages k of |P_k f_S,k - f_T,k|^2 / |f_T,k|^2, all at noised data.

    LAPTOP-Diff (2404.11098); stages are paired as `matching` says. P_k is the identity, or where the student has fewer
    channels a linear map of channels, trained with it and left behind. The output is compared with the teacher's, the
    features with those of its network: for a closed form the network that was fitted to it.
    """


    def require(self, facts: "NetworkFacts") -> None:
        stages(facts.network)

    def prepare(self, step: "Step", seed: int) -> None:
        x_t, t, _ = step.shared.noised("real", self.settings.times)
        found, wanted = (features for _, features in self._pair(step, x_t, t))
        maps = [
            nn.Identity() if f.shape[1] == w.shape[1] else
            build(lambda f=f, w=w: nn.Linear(f.shape[1], w.shape[1]), generator(seed, f"features/{k}"))
            for k, (f, w) in enumerate(zip(found, wanted, strict=True))
        ]  # fmt: skip
        if any(isinstance(one, nn.Linear) for one in maps):
            self.heads = {"student": nn.ModuleList(maps).to(x_t.device)}

    def loss(self, step: "Step") -> Loss:
        s = self.settings
        x_t, t, _ = step.shared.noised("real", s.times)
        (own, found), (theirs, wanted) = self._pair(step, x_t, t)
        maps = self.heads.get("student", [nn.Identity()] * len(found))
        parts = [
            feature_error(_mapped(m, f), w, s.normalised)
            for m, f, w in zip(maps, found, wanted, strict=True)
        ]
        features = torch.stack(parts).mean()
        output = output_error(step.student, own, theirs).mean()
        return s.output * output + features, {"output": output.detach(), "features": features.detach()}

    @staticmethod
    def _pair(
        step: "Step", x_t: Tensor, t: Tensor
    ) -> tuple[tuple["Prediction", list[Tensor]], tuple["Prediction", list[Tensor]]]:
        """(prediction, features of the paired stages) of the student and of the teacher."""
        student, teacher, network = step.student, step.networks["teacher"], step.networks[TEACHER_NETWORK]
        pairs = matching(student.network, network.network)
        with watched(student, [mine for mine, _ in pairs]) as found:
            own = student.predict(x_t, t, step.batch.condition)
        with torch.no_grad():
            closed = teacher is not network  # a closed form: its output is exact, its features are its network's
            with watched(network, [other for _, other in pairs], only=closed) as wanted:
                theirs = network.predict(x_t, t, step.batch.condition)
            if closed:
                theirs = teacher.predict(x_t, t, step.batch.condition)
        return (own, found), (theirs, wanted)


def _mapped(channels: nn.Module, feature: Tensor) -> Tensor:
    """`feature` (N, C, ...) through a map of its channels."""
    return channels(feature.movedim(1, -1)).movedim(-1, 1)
