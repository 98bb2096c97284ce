"""Maximum mean discrepancy: the student's samples against data by a kernel, through its whole sampling chain."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewstep.networks.block_features import features_at
from fewstep.networks.network_blocks import middle
from fewstep.objectives.common.condition_summary import summary_of
from fewstep.objectives.mmd.settings import MmdSettings
from fewstep.objectives.term import Loss, Term
from fewstep.objectives.term_settings import TEACHER_NETWORK

if TYPE_CHECKING:
    from fewstep.networks.network_facts import NetworkFacts
    from fewstep.training.step.step_context import Step


def gaussian(x: Tensor, y: Tensor, width: Tensor) -> Tensor:
    """exp(-|x - y|^2 / (2 width^2)): (N, D), (M, D) -> (N, M)."""
    return (-_squared_distances(x, y) / (2 * width**2)).exp()


def rational_quadratic(x: Tensor, y: Tensor, width: Tensor) -> Tensor:
    """1 / (1 + |x - y|^2 / (2 width^2)), whose gradient reaches farther: (N, D), (M, D) -> (N, M)."""
    return 1 / (1 + _squared_distances(x, y) / (2 * width**2))


def cubic(x: Tensor, y: Tensor, width: Tensor) -> Tensor:
    """(x.y / D + 1)^3, the kernel of KID (Binkowski et al., 1801.01401): (N, D), (M, D) -> (N, M)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


KERNELS = {"gaussian": gaussian, "rational_quadratic": rational_quadratic, "cubic": cubic}


def unbiased(own: Tensor, real: Tensor, across: Tensor) -> Tensor:
    """mean over i != j of k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i): three (N, N) -> scalar.

    Gretton et al., A Kernel Two-Sample Test (JMLR 2012), eq. 4 with paired samples: x_i and y_i may depend on each
    other, as they do where they share a label. Its expectation is the squared discrepancy, 0 for equal distributions,
    whatever the size of the batch.
    """
    count = len(own)
    total = own + real - across - across.T
    return (total.sum() - total.diagonal().sum()) / (count * (count - 1))


class Mmd(Term[MmdSettings]):
    """L = sum over bandwidths of MMD^2(student's samples, data), differentiated through every step of the sampler.

    Aiello et al., Fast Inference in Denoising Diffusion Models via MMD Finetuning (2301.07969). From the abstract: a
    trained model is fine-tuned by the MMD between its samples under a budget of steps and data; with the steps
    deterministic or reparametrised, the chain is one differentiable map of its noise.

    With labels what is compared is the joint distribution: the kernel is multiplied by [c = c'], or for prompts, of
    which hardly two are equal, by a Gaussian kernel of their summaries.
    """


    def require(self, facts: "NetworkFacts") -> None:
        if self.settings.space != "samples":
            middle(facts.network)

    def loss(self, step: "Step") -> Loss:
        samples, condition = (step.shared.sampled, step.batch.data), step.batch.condition
        x, y = (self._space(step, part).flatten(1) for part in samples)
        alike = 1.0 if condition is None else _alike(step, condition)
        kernel, scale = KERNELS[self.settings.kernel], _median_distance(y)
        value = torch.zeros((), device=x.device)
        for share in self.settings.bandwidths:
            width = share * scale
            value = value + unbiased(*(alike * kernel(a, b, width) for a, b in ((x, x), (y, y), (x, y))))
        return value, {}

    def _space(self, step: "Step", samples: Tensor) -> Tensor:
        if self.settings.space == "samples":
            return samples
        t = step.levels.time(torch.full((step.draws.size,), self.settings.feature_noise, device=samples.device))
        noised = step.student.process.add_noise(samples, step.draws.normal("feature-noise", like=samples), t)
        features = features_at(step.networks[TEACHER_NETWORK], noised, t, step.batch.condition)
        return features[0].to(noised.dtype)


def _alike(step: "Step", condition: Tensor) -> Tensor:
    """The kernel of conditions (N,): (N, N)."""
    if step.student.table is None:
        return (condition[:, None] == condition).float()
    summary = summary_of(step.student, condition)
    return gaussian(summary, summary, _median_distance(summary, distinct=True))


def _median_distance(y: Tensor, distinct: bool = False) -> Tensor:
    """Median distance between the rows of y (N, D), or between those that differ: a number, by which bandwidths fit
    data of any scale. 1 where there is one row alone."""
    one = torch.ones((), dtype=torch.float64, device=y.device)
    if len(y) < 2:
        return one
    apart = torch.pdist(y.detach()).double()
    if distinct:    # each of them at its first place
        again = (y[:, None] == y).all(2).tril(-1).any(1)
        first, second = torch.triu_indices(len(y), len(y), 1, device=y.device)
        apart = apart.masked_fill(again[first] | again[second], torch.nan)
    found = apart.nanmedian()
    return torch.where(found.isnan() & distinct, one, found.clamp_min(1e-6))


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    square = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
    return square.clamp_min(0)
