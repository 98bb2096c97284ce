"""A mixture of Gaussians as a teacher: exact denoiser, exact samples, exact flow. The ground truth of every test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.processes import Process, VariancePreserving, like
from fewstep.util.errors import SettingsError


class GaussianMixture(Denoiser):
    """Data Σ_k w_k N(μ_k, s_k² I), diffused by `process`: the Bayes-optimal denoiser in closed form.

    Label k < K means component k; label K, or no label, the whole mixture (so guidance works); the labels after it the
    `groups` of components, if any (so guidance of several scales works). Computed in float64, differentiable in x.

    Args:
        means: (K, D), or (K, *shape) for samples of another shape. stds: (K,) > 0, or one number for all.
        weights: (K,) > 0, normalised here; equal by default. process: cosine variance-preserving by default.
        groups: of components, nested or apart; see fewstep/diffusion/label_groups.py.
    """

    def __init__(
        self,
        means: Tensor | Sequence,
        stds: Tensor | Sequence[float] | float,
        weights: Tensor | Sequence[float] | None = None,
        process: Process | None = None,
        groups: Sequence[Sequence[int]] = (),
    ):
        means = torch.as_tensor(means, dtype=torch.float64)
        count = len(means)
        stds = torch.as_tensor(stds, dtype=torch.float64).expand(count).clone()
        weights = torch.ones(count) if weights is None else torch.as_tensor(weights)
        weights = weights.to(torch.float64)
        if means.ndim < 2 or weights.shape != (count,) or not bool((stds > 0).all() and (weights > 0).all()):
            raise SettingsError("a mixture needs means (K, D), positive stds (K,) and positive weights (K,)")
        super().__init__(
            nn.Identity(), process or VariancePreserving.cosine(), "v_prediction", means.shape[1:], count, count,
            groups=groups,
        )  # fmt: skip
        self.register_buffer("means", means)
        self.register_buffer("stds", stds)
        self.register_buffer("weights", weights / weights.sum())
        own = torch.eye(count, dtype=torch.bool)
        groups = [own[list(group)].any(0) for group in self.groups]
        members = torch.cat([own, torch.stack([torch.ones_like(own[0]), *groups])])  # (labels, K): what a label allows
        self.register_buffer("members", members, persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> GaussianMixture:
        """Moves between devices but stays in float64: a cast there and back would round what it stands for."""
        kept = {name: getattr(self, name) for name in ("means", "stds", "weights")}
        super()._apply(fn, recurse)
        for name, value in kept.items():
            setattr(self, name, value.to(getattr(self, name).device))
        return self

    def _evaluate(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        self.require_shape(x)
        return self._v(x.double(), self.process.alpha(t), self.process.sigma(t), labels).to(x.dtype)

    def _v(self, x: Tensor, alpha: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        residual, logits = self._joint(x, alpha, sigma, labels)
        shares = logits.softmax(1)
        variance = (alpha[:, None] ** 2 * self.stds**2 + sigma[:, None] ** 2)[:, :, None]
        # per component E[x0] = μ + α s²/var · residual and E[ε] = σ/var · residual; no division by α or σ
        slope = (alpha * sigma)[:, None, None] * (1 - self.stds[:, None] ** 2) / variance
        v = (shares[:, :, None] * (slope * residual - sigma[:, None, None] * self.means.flatten(1))).sum(1)
        return v.reshape(x.shape)

    def _joint(self, x: Tensor, alpha: Tensor, sigma: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Residuals x − α μ_k (N, K, D) and log p(x, component) (N, K), −∞ for components that the label excludes."""
        residual = x.flatten(1)[:, None] - alpha[:, None, None] * self.means.flatten(1)
        variance = alpha[:, None] ** 2 * self.stds**2 + sigma[:, None] ** 2
        logits = self.weights.log() - (residual**2).sum(-1) / (2 * variance)
        logits = logits - residual.shape[-1] / 2 * (2 * math.pi * variance).log()
        if labels is not None:
            own = self.members.index_select(0, labels)  # refuses any label beyond
            logits = logits.masked_fill(~own, -math.inf)
        return residual, logits

    def log_prob(self, x: Tensor, t: Tensor | float | None = None, condition: Tensor | None = None) -> Tensor:
        """Log-density (N,) of x (N, …) at native time t, or of the data when t is None.

        Raises SettingsError for x of another shape, or labels that are no component's.
        """
        self.require_samples(x, condition)
        if t is None:
            alpha, sigma = x.new_ones(len(x), dtype=torch.float64), x.new_zeros(len(x), dtype=torch.float64)
        else:
            t = torch.as_tensor(t, dtype=torch.float64, device=x.device).expand(len(x))
            alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        labels = self._labels(condition, len(x), x.device)
        log_joint = self._joint(x.double(), alpha, sigma, labels)[1].logsumexp(1)
        if condition is not None:
            groups = [self.weights[list(group)].sum() for group in self.groups]
            shares = torch.cat([self.weights, torch.stack([self.weights.new_tensor(1.0), *groups])])
            log_joint = log_joint - shares.log()[labels]
        return log_joint

    def log_posterior(self, x: Tensor) -> Tensor:
        """log p(component | x) (N, K) of clean samples x (N, …), in float64, differentiable in x.

        Raises SettingsError for x of another shape.
        """
        self.require_shape(x)
        one = x.new_ones(len(x), dtype=torch.float64)
        return self._joint(x.double(), one, torch.zeros_like(one), None)[1].log_softmax(1)

    def tilted(self, slope: Tensor | Sequence[float]) -> GaussianMixture:
        """The mixture with density ∝ p(x) exp⟨slope, x⟩, slope of at most the sample's size and 0 beyond.

        Component k keeps its deviation, moves by s_k² slope and is reweighted by exp(⟨slope, μ_k⟩ + s_k² |slope|² / 2).
        """
        flat = self.means.flatten(1)
        b = torch.zeros_like(flat[0])
        given = torch.as_tensor(slope, dtype=torch.float64).flatten()
        b[: len(given)] = given
        variances = self.stds**2
        means = (flat + variances[:, None] * b).reshape(self.means.shape)
        exponents = self.weights.log() + flat @ b + variances * b.square().sum() / 2
        return GaussianMixture(means, self.stds, exponents.softmax(0), process=self.process, groups=self.groups)

    def exact_samples(self, n: int, generator: torch.Generator, condition: Tensor | None = None) -> Tensor:
        """(n, *shape) float32 samples of the data, of the components that `condition` (n,) allows if given."""
        return self.labelled_samples(n, generator, condition)[0]

    def labelled_samples(
        self, n: int, generator: torch.Generator, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Samples (n, *shape) float32 with the component (n,) int64 each came from. `generator` is a CPU generator.

        Raises SettingsError for labels that are no component's.
        """
        self.require_condition(condition, n)
        weights = self.weights.cpu()
        drawn = torch.multinomial(weights, n, replacement=True, generator=generator)
        if condition is not None:
            condition = condition.cpu().long()
            drawn = torch.where(condition < self.num_classes, condition, drawn)
            rows = (condition > self.num_classes).nonzero()[:, 0]  # of groups
            if len(rows):
                allowed = weights * self.members.cpu()[condition[rows]]
                drawn[rows] = torch.multinomial(allowed, 1, generator=generator)[:, 0]
        noise = torch.randn(n, *self.sample_shape, generator=generator, dtype=torch.float64)
        samples = self.means.cpu()[drawn] + like(self.stds.cpu()[drawn], noise) * noise
        return samples.float(), drawn

    @torch.no_grad()
    def flow(
        self, x: Tensor, t: Tensor | float, s: Tensor | float, condition: Tensor | None = None, steps: int = 256
    ) -> Tensor:
        """The exact probability-flow map of x (N, …) from native time t to s (numbers or (N,)), in x's dtype.

        Runge-Kutta 4 in the angle φ = atan(σ/α), where the ODE of u = x/√(α²+σ²) is du/dφ = v(u, φ), smooth to both
        ends; steps shrink towards the data. With 256 steps the error is about 1e-8 for components of std 0.1.
        Raises SettingsError for x of another shape, or labels that are no component's.
        """
        self.require_samples(x, condition)
        dtype = x.dtype
        labels = self._labels(condition, len(x), x.device)
        ends = [torch.as_tensor(time, dtype=torch.float64, device=x.device).expand(len(x)) for time in (t, s)]
        begin, end = (torch.atan2(self.process.sigma(time), self.process.alpha(time)) for time in ends)
        u = x.double() / like(self.process.scale(ends[0]), x.double())
        part = torch.linspace(0, 1, steps + 1, dtype=torch.float64, device=x.device)
        low, high = begin.sqrt(), end.sqrt()
        angles = [(low + (high - low) * value) ** 2 for value in part]

        def velocity(state: Tensor, angle: Tensor) -> Tensor:
            return self._v(state, angle.cos(), angle.sin(), labels)

        for phi, after in zip(angles[:-1], angles[1:], strict=True):
            step, middle = like(after - phi, u), (phi + after) / 2
            first = velocity(u, phi)
            second = velocity(u + step / 2 * first, middle)
            third = velocity(u + step / 2 * second, middle)
            fourth = velocity(u + step * third, after)
            u = u + step / 6 * (first + 2 * second + 2 * third + fourth)
        return (u * like(self.process.scale(ends[1]), u)).to(dtype)
