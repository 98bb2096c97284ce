"""A step over closed-form networks: data N(mu, s^2 I), so that every loss has a known value and a known optimum."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewstep.diffusion.adapters import Adapter
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.network_inputs import ExtraInputs
from fewstep.diffusion.processes import EDM, Flow, Process, VariancePreserving, like
from fewstep.teachers import GaussianMixture
from fewstep.training.step.batches import Sources, TensorData
from fewstep.training.step.keyed_draws import Draws
from fewstep.training.step.step_context import Step, StepSetup

MU, S = 0.7, 0.5
SIGMAS = 4.5  # of 3 components in some 40 comparisons
PROCESSES = [VariancePreserving.cosine(), Flow(), EDM()]
IDS = ["vp", "flow", "edm"]


def gaussian(process: Process, mean: float = MU, std: float = S) -> GaussianMixture:
    """The exact denoiser of N(mean, std^2) in two dimensions."""
    return GaussianMixture([[mean, mean]], [std], process=process)


class Disturbed(nn.Module):
    """shift (2,) and gain (1,), parameters with value zero: where a gradient at an optimum is measured."""

    def __init__(self):
        super().__init__()
        self.shift, self.gain = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + self.gain) + self.shift


@dataclass(frozen=True)
class Formula(Adapter):
    """Calls formula(x, alpha, sigma) and disturbs what comes out."""

    formula: object

    def __call__(self, network, process, x, t, labels):
        alpha, sigma = like(process.alpha(t), x), like(process.sigma(t), x)
        return network(self.formula(x, alpha, sigma))


def student(process: Process, formula, kind: str = "sample") -> Denoiser:
    """A denoiser of this prediction type whose exact output is `formula`, with disturbances to differentiate to."""
    return Denoiser(Disturbed(), process, kind, (2,), adapter=Formula(formula))


def posterior_mean(x, alpha, sigma, mean=MU, std=S):
    """E[x0 | x_t]."""
    return mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)


def flow_map(x, alpha, sigma, to_alpha, to_sigma, mean=MU, std=S):
    """Where the exact flow takes x at level (alpha, sigma) until the level (to_alpha, to_sigma)."""
    stretch = ((to_alpha**2 * std**2 + to_sigma**2) / (alpha**2 * std**2 + sigma**2)).sqrt()
    return to_alpha * mean + stretch * (x - alpha * mean)


def consistency(x, alpha, sigma, mean=MU, std=S):
    """The exact flow map to clean data."""
    return flow_map(x, alpha, sigma, 1.0, 0.0, mean, std)


def leading_to(there, x, alpha, sigma, to_alpha, to_sigma):
    """The x0 whose straight step from x at (alpha, sigma) ends at `there`, at level (to_alpha, to_sigma)."""
    return (there - to_sigma / sigma * x) / (to_alpha - to_sigma / sigma * alpha)


def generator_of(process, mean, std=S):
    """A one-step generator with samples N(mean, std^2), its mean a parameter (shift) away."""
    return student(process, lambda x, alpha, sigma: mean + std * x / sigma)


def samples(n: int, mean: float = MU, std: float = S, seed: int = 3) -> Tensor:
    return mean + std * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))


def make_step(
    networks: dict, *, n: int, role="student", k=0, data=None, pairs=None, grid=None, progress=0.0, **setup
) -> Step:
    """Step number k of a batch of n; `setup` as StepSetup has it."""
    process = networks["student"].process
    sources = Sources(data=None if data is None else TensorData(data), pairs=pairs)
    draws = Draws(0, 0, k, n, torch.device("cpu"))
    return Step(StepSetup(networks, grid or [process.t_max], sources, **setup), role, draws, progress=progress)


def step_of(networks: dict, ratios=(80.0,), **kwargs) -> Step:
    """A step of a student that starts at the first of these noise ratios and goes through the others."""
    process = networks["student"].process
    grid = process.time(-2 * torch.tensor(ratios, dtype=torch.float64).log()).tolist()
    return make_step(networks, grid=grid, **kwargs)


class Pairs:
    """(noise, x) with x the exact end of the flow from the noise."""

    def __init__(self, mean: float = MU, std: float = S):
        self.mean, self.std = mean, std

    def batch(self, seed, position, size):
        noise = torch.randn(size, 2, generator=torch.Generator().manual_seed(position + 17))
        return {"noise": noise, "x": self.mean + self.std * noise, "condition": None}


class States(Pairs):
    """Exact trajectories in this process: its states at these noise ratios, from the noise end or next to it."""

    def __init__(self, process: Process, ratios=(80.0, 5.0, 0.5)):
        super().__init__()
        self.process = process
        self.times = process.time(-2 * torch.as_tensor(ratios, dtype=torch.float64).log())

    def batch(self, seed, position, size):
        pair = super().batch(seed, position, size)
        levels = [(self.process.alpha(t), self.process.sigma(t)) for t in self.times]
        one, none = torch.ones(()), torch.zeros(())
        states = [flow_map(pair["x"].double(), one, none, *level) for level in levels]
        return {**pair, "states": torch.stack(states, 1).float(), "times": self.times}


def zero(mean: Tensor, error: Tensor) -> None:
    """Asserts that an estimate with this standard error is of nothing."""
    assert bool((mean.abs() <= SIGMAS * error + 1e-9).all()), (mean, error)


def mean_and_error(estimates: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean over independent estimates and its standard error."""
    values = torch.stack(estimates).double()
    return values.mean(0), values.std(0) / len(estimates) ** 0.5


def gradients(term, networks: dict, steps: int = 64, n: int = 512, **kwargs) -> tuple[Tensor, Tensor]:
    """Mean gradient of a term's loss to the student's disturbances (3,), and its standard error."""
    found = []
    for k in range(steps):
        own = networks["student"]
        loss, _ = term.loss(make_step(networks, n=n, k=k, **kwargs))
        parts = torch.autograd.grad(loss, list(own.network.parameters()))
        found.append(torch.cat([p.reshape(-1) for p in parts]))
    return mean_and_error(found)


class ToSecond(Adapter):
    """The exact flow map to the second time, as the x0 whose straight step leads there."""

    def __call__(self, network, process, x, t, given):
        nu, there = (process.sigma(t) / process.alpha(t)).double(), given.angle.double().tan()
        state = x.double() / like(process.alpha(t), x)
        arrived = flow_map(state, 1.0, like(nu, state), 1.0, like(there, state))
        apart = like(nu - there, state)
        noise = torch.where(apart > 1e-6 * like(nu, state), (state - arrived) / apart,
                            (state - MU) * like(nu / (S**2 + nu**2), state))  # fmt: skip
        return network((state - like(nu, state) * noise).to(x.dtype))


class TwoTimes(Denoiser):
    """The exact flow map between any two times, with disturbances to differentiate to."""

    def __init__(self, process: Process):
        super().__init__(Disturbed(), process, "sample", (2,), adapter=ToSecond())
        self.inputs = ExtraInputs(second_time=True)
