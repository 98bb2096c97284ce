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


def squared_distances(x: Tensor) -> Tensor:
    """|x_i - x_j|^2: (N, D) -> (N, N)."""
    square = x.square().sum(1)
    return (square[:, None] + square - 2 * x @ x.T).clamp_min(0)


def products(x: Tensor) -> Tensor:
    """x_i.x_j / D: (N, D) -> (N, N)."""
    return x @ x.T / x.shape[1]


def gaussian(square: Tensor, width: Tensor) -> Tensor:
    """exp(-|x - y|^2 / (2 width^2))."""
    return (square / (-2 * width**2)).exp()


def rational_quadratic(square: Tensor, width: Tensor) -> Tensor:
    """1 / (1 + |x - y|^2 / (2 width^2)), whose gradient reaches farther."""
    return 1 / (1 + square / (2 * width**2))


def cubic(product: Tensor, width: Tensor) -> Tensor:
    """(x.y / D + 1)^3, the kernel of KID (Binkowski et al., 1801.01401)."""
    return (product + 1) ** 3


KERNELS = {"gaussian": (squared_distances, gaussian), "rational_quadratic": (squared_distances, rational_quadratic),
           "cubic": (products, cubic)}  # fmt: skip
"""By name: what it is a function of, between all samples, and that function."""


def unbiased(kernel: Tensor, alike: Tensor | float = 1.0) -> Tensor:
    """mean over i != j of a_ij (k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i)) -> scalar.

    Gretton et al., A Kernel Two-Sample Test (JMLR 2012), eq. 4 with paired samples: x_i and y_i may depend on each
    other, as they do where they share a label. Its expectation is the squared discrepancy, 0 for equal distributions,
    whatever the size of the batch.

    kernel: (2N, 2N), of the x and behind them the y. alike: a (N, N), the kernel of their conditions.
    """
    count = len(kernel) // 2
    (own, across), (back, real) = (half.split(count, 1) for half in kernel.split(count))
    total = alike * (own + real - across - back)
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
        (between, kernel), scale = KERNELS[self.settings.kernel], _median_distance(y)
        apart = between(torch.cat([x, y]))
        return unbiased(sum(kernel(apart, share * scale) for share in self.settings.bandwidths), alike), {}

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
    return gaussian(squared_distances(summary), _median_distance(summary, distinct=True))


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
