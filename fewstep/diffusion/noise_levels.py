"""Noise levels of a process as ratios nu = sigma / alpha, held where they are finite, and distributions of them."""

import math
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from fewstep.diffusion.made_of_tensors import MadeOfTensors, as_double
from fewstep.diffusion.noise_level_settings import LogNormalTimes, NativeTimes, Times, UniformTimes
from fewstep.diffusion.processes import Process

_UNIT_SCALES = MadeOfTensors()


def unit_scale(nu: Tensor) -> Tensor:
    """sqrt(1 + nu^2) (N,): the scale of x / alpha at noise ratios nu (N,), for data of unit variance."""
    return _UNIT_SCALES.of(nu, lambda nu: (1 + nu.square()).sqrt())


class Levels:
    """Native times and noise ratios of `process`, whose sampling starts at the native time `start`."""

    def __init__(self, process: Process, start: float):
        self.process, self._start = process, start
        self._times, self._arrivals = MadeOfTensors(), MadeOfTensors()

    def ratio(self, t: Tensor) -> Tensor:
        """nu = sigma / alpha at native times t."""
        return (-0.5 * self.process.log_snr(t)).exp()

    def ratio_at(self, t: float) -> float:
        """nu at one native time."""
        return float(self.ratio(torch.tensor(t, dtype=torch.float64)))

    def exact_time(self, nu: Tensor) -> Tensor:
        """Native time, float64, of noise ratios, held where they are finite and not zero."""
        low, high = self._log_snr_range
        return self._times.of(nu, lambda nu: self.process.time((-2 * nu.double().log()).clamp(low, high)))

    def arrival_time(self, nu: Tensor) -> Tensor:
        """Native time, float64, that a prediction leads to at noise ratios nu: `exact_time`, and for 0 the process's
        clean end."""
        return self._arrivals.of(nu, lambda nu: self.exact_time(nu).masked_fill(nu <= 0, self.process.t_min))

    def time(self, nu: Tensor) -> Tensor:
        """`exact_time` in float32."""
        return self.exact_time(nu).float()

    def of_flow_time(self, u: Tensor) -> Tensor:
        """Native time, float32, of flow times u = sigma / (alpha + sigma) in (0, 1)."""
        return self.time(u / (1 - u))

    @cached_property
    def least(self) -> float:
        """nu at the process's clean end, or next to it."""
        return math.exp(-0.5 * self._log_snr_range[1])

    @cached_property
    def greatest(self) -> float:
        """nu at the process's noise end, or next to it where that is pure noise."""
        return math.exp(-0.5 * self._log_snr_range[0])

    @cached_property
    def start(self) -> float:
        """nu where sampling starts, or next to it where that is pure noise."""
        return min(self.ratio_at(self._start), self.greatest)

    @cached_property
    def _log_snr_range(self) -> tuple[float, float]:
        ends = self.process.log_snr(torch.tensor([self.process.t_max, self.process.t_min], dtype=torch.float64))
        # A process that reaches pure noise or clean data is held just before it, where the ratio is finite.
        return max(float(ends[0]), -2 * math.log(1e5)), min(float(ends[1]), 2 * math.log(1e5))


class NamedDraws(Protocol):
    """Random numbers by name, float64: what a distribution of noise levels is drawn from."""

    def uniform(self, name: str) -> Tensor:
        """(N,) uniform in [0, 1)."""

    def gaussian(self, name: str) -> Tensor:
        """(N,) N(0, 1)."""


class _ByShare:
    def drawn(self, draws: NamedDraws, name: str) -> Tensor:
        """Native times (N,), float32, by the draw `name`."""
        return self.at(draws.uniform(name))


class Native(_ByShare):
    """Uniform in native time, over the whole of the process's range."""

    def __init__(self, settings: NativeTimes, levels: Levels):
        self.process = levels.process

    def at(self, share: Tensor) -> Tensor:
        """Native times, float32, below which these shares of the distribution lie."""
        return (self.process.t_min + share * (self.process.t_max - self.process.t_min)).float()

    def share(self, t: float) -> float:
        """Share of the distribution that lies at native times below t."""
        return (t - self.process.t_min) / (self.process.t_max - self.process.t_min)

    def density(self, t: Tensor) -> Tensor:
        """Density (N,) of log(nu) at native times t (N,)."""
        alpha, sigma = self.process.alpha(as_double(t)), self.process.sigma(as_double(t))
        slopes = self.process.derivatives(as_double(t))
        return 1 / (slopes[1] / sigma - slopes[0] / alpha).abs() / (self.process.t_max - self.process.t_min)


class Uniform(_ByShare):
    """Uniform in flow time u = nu / (1 + nu), whatever the process; methods as in `Native`."""

    def __init__(self, settings: UniformTimes, levels: Levels):
        self.low, self.width, self.levels = settings.low, settings.high - settings.low, levels

    def at(self, share: Tensor) -> Tensor:
        return self.levels.of_flow_time((self.low + share * self.width).clamp(1e-9, 1 - 1e-9))

    def share(self, t: float) -> float:
        nu = self.levels.ratio_at(t)
        return min(max((nu / (1 + nu) - self.low) / self.width, 0.0), 1.0)

    def density(self, t: Tensor) -> Tensor:
        nu = self.levels.ratio(as_double(t))
        return nu / (1 + nu).square() / self.width


class LogNormal:
    """log(nu) ~ N(mean, std^2) (Karras et al., 2206.00364, table 1); methods as in `Native`."""

    def __init__(self, settings: LogNormalTimes, levels: Levels):
        self.mean, self.std, self.levels = settings.mean, settings.std, levels

    def drawn(self, draws: NamedDraws, name: str) -> Tensor:
        return self._of(draws.gaussian(name))

    def at(self, share: Tensor) -> Tensor:
        return self._of(torch.special.ndtri(share.clamp(1e-9, 1 - 1e-9)))

    def share(self, t: float) -> float:
        nu = self.levels.ratio_at(t)
        return 0.5 * (1 + math.erf((math.log(nu) - self.mean) / self.std / math.sqrt(2)))

    def density(self, t: Tensor) -> Tensor:
        z = (self.levels.ratio(as_double(t)).log() - self.mean) / self.std
        return (-0.5 * z.square()).exp() / (self.std * math.sqrt(2 * math.pi))

    def _of(self, normal: Tensor) -> Tensor:
        return self.levels.time((self.mean + self.std * normal).exp())


DISTRIBUTIONS = {NativeTimes: Native, UniformTimes: Uniform, LogNormalTimes: LogNormal}


def distribution(settings: Times, levels: Levels) -> Native | Uniform | LogNormal:
    """The distribution of noise levels that these settings describe."""
    return DISTRIBUTIONS[type(settings)](settings, levels)
