"""Noise processes: x_t = α(t) x0 + σ(t) ε, each in the time its networks were trained in.

The log-SNR λ = 2 log(α/σ) is what processes share: two states with equal λ differ by a factor only, so a sampler, a
loss or a teacher of one process serves another (Kingma et al., arXiv 2107.00630, section 3).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fewstep.diffusion.made_of_tensors import MadeOfTensors, as_double
from fewstep.util.device import number_on
from fewstep.util.errors import SettingsError

_FLOOR = 1e-12  # of alphas_cumprod: a schedule rescaled to zero terminal SNR keeps a finite log-SNR


class Process:
    """A noise process. `t` has any shape; what comes back has t's shape and dtype (computed in float64).

    t_min, t_max: native time of data and of noise. `t_max` may have α = 0, `t_min` may have σ = 0.
    """

    kind: ClassVar[str]
    t_min: float
    t_max: float

    def log_snr(self, t: Tensor) -> Tensor:
        """λ = 2 log(α/σ); −inf at pure noise, +inf at clean data."""
        raise NotImplementedError

    def time(self, log_snr: Tensor) -> Tensor:
        """The native time of a log-SNR, the inverse of `log_snr`; beyond the ends of the process, the end."""
        raise NotImplementedError

    def alpha(self, t: Tensor) -> Tensor:
        """Factor of the data."""
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        """Factor of the noise."""
        raise NotImplementedError

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(dα/dt, dσ/dt)."""
        raise NotImplementedError

    def grid(self, steps: int, start: float | None = None) -> Tensor:
        """The (steps,) float64 decreasing native times at which `steps` evaluations are made; the end is clean data.

        `start` replaces t_max as the first time.
        """
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready description; `Process.from_dict` reads it."""
        return {"kind": self.kind}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Process:
        """The process that `to_dict` described. Raises SettingsError for what it does not know."""
        rest = dict(data)
        name = rest.pop("kind", None)
        if name not in _KINDS:
            raise SettingsError(f"unknown noise process {name!r}; known: {', '.join(sorted(_KINDS))}")
        try:
            return _KINDS[name](**rest)
        except TypeError as error:
            raise SettingsError(f"noise process {name!r}: {error}") from None

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """α(t) x0 + σ(t) noise for x0, noise (N, …) and t (N,) or a scalar."""
        t = as_double(number_on(x0.device, t))
        return (like(self.alpha(t), x0) * x0) + (like(self.sigma(t), x0) * noise)

    def initial(self, noise: Tensor, t: float | None = None) -> Tensor:
        """The state that N(0, I) noise stands for at t_max, or at another start `t` of high noise."""
        return noise

    def discretise(self, n: int = 1000) -> Tensor:
        """alphas_cumprod (n,) float64 of an equivalent variance-preserving chain, least noise first.

        Entry i belongs to the native time `time_at(i, n)`; what no chain of βs in float32 can hold is clamped.
        """
        snr = self.log_snr(self.time_at(torch.arange(n, dtype=torch.float64), n))
        return torch.sigmoid(snr).clamp(_FLOOR, 1 - 1e-7)

    def time_at(self, index: Tensor, n: int = 1000) -> Tensor:
        """Native time (float64) of a possibly fractional index 0 … n−1 of the discretised chain."""
        index = torch.as_tensor(index, dtype=torch.float64)
        return self.t_min + (self.t_max - self.t_min) * index / max(n - 1, 1)

    def index_at(self, t: Tensor, n: int = 1000) -> Tensor:
        """Index (float64, fractional) in the discretised chain of a native time; inverse of `time_at`."""
        t = torch.as_tensor(t, dtype=torch.float64)
        return (t - self.t_min) / (self.t_max - self.t_min) * (n - 1)

    def convert(self, x: Tensor, t: Tensor, other: Process) -> tuple[Tensor, Tensor]:
        """(x', t'): the state of `other` at the same log-SNR, for x (N, …) and t (N,) or a scalar.

        x/√(α²+σ²) is what both have in common. Beyond the ends of `other`, t' is its end.
        """
        t = number_on(x.device, t)
        there = other.time(self.log_snr(as_double(t)))
        factor = other.scale(there) / self.scale(as_double(t))
        return x * like(factor, x), there.to(t.dtype if t.is_floating_point() else torch.float64)

    def scale(self, t: Tensor) -> Tensor:
        """√(α² + σ²)."""
        return (self.alpha(t) ** 2 + self.sigma(t) ** 2).sqrt()


@dataclass(frozen=True)
class _Lookup:
    """The log-SNR of a chain's timesteps on one device, arranged so that a time takes few kernels.

    pairs: (N, 2), each timestep's and the next's; after the last the line goes on. slopes: (N,) their differences.
    falls: (N − 1, 2), each timestep's and by how much the next's is less. inner: (N − 2,) −log-SNR of all timesteps but
    the first and the last.
    """

    pairs: Tensor
    slopes: Tensor
    falls: Tensor
    inner: Tensor
    least: float
    greatest: float

    @classmethod
    def of(cls, levels: Tensor) -> _Lookup:
        """From decreasing log-SNR (N,), float64."""
        slopes = levels.diff()
        slopes = torch.cat([slopes, slopes[-1:]])
        pairs = torch.stack([levels, torch.cat([levels[1:], levels[-1:] + slopes[-1:]])], 1)
        falls = torch.stack([levels[:-1], levels[:-1] - levels[1:]], 1)
        return cls(pairs, slopes, falls, -levels[1:-1], float(levels[-1]), float(levels[0]))

    def to(self, device: torch.device) -> _Lookup:
        """The same on a device."""
        tensors = (tensor.to(device) for tensor in (self.pairs, self.slopes, self.falls, self.inner))
        return _Lookup(*tensors, self.least, self.greatest)


@dataclass(frozen=True, repr=False)
class VariancePreserving(Process):
    """DDPM's chain (Ho et al., arXiv 2006.11239) in continuous time: t in [0, 1], timestep = t (N − 1).

    Between timesteps log-SNR is linear. alphas_cumprod: N ≥ 2 numbers in [0, 1), decreasing.
    """

    alphas_cumprod: tuple[float, ...]
    kind: ClassVar[str] = "variance_preserving"
    t_min: ClassVar[float] = 0.0
    t_max: ClassVar[float] = 1.0

    def __post_init__(self):
        table = torch.as_tensor(self.alphas_cumprod, dtype=torch.float64).clamp(_FLOOR, 1 - 1e-9)
        if table.ndim != 1 or len(table) < 2 or not bool((table.diff() < 0).all()):
            raise SettingsError("alphas_cumprod must be two or more strictly decreasing numbers")
        object.__setattr__(self, "alphas_cumprod", tuple(table.tolist()))
        # Now, and not when first asked for: a tensor made within a forward derivative stays bound to it.
        table = torch.tensor(self.alphas_cumprod, dtype=torch.float64)
        levels = table.log() - (-table).log1p()
        object.__setattr__(self, "_tables", {torch.device("cpu"): _Lookup.of(levels)})
        for name in ("_log_snrs", "_both", "_alphas", "_sigmas"):
            object.__setattr__(self, name, MadeOfTensors())

    def __reduce__(self) -> tuple:
        return VariancePreserving, (self.alphas_cumprod,)

    def __deepcopy__(self, memo: dict) -> VariancePreserving:
        """Itself: copies of a network share what never changes, and the levels of the times that they are asked at."""
        return self

    def __repr__(self) -> str:
        return f"VariancePreserving({self.timesteps} timesteps, {self.alphas_cumprod[-1]:.3g} at the end)"

    @classmethod
    def cosine(cls, n: int = 1000) -> VariancePreserving:
        """The cosine schedule of Nichol & Dhariwal (arXiv 2102.09672) as diffusers' `squaredcos_cap_v2` has it."""
        return cls.scheduled("squaredcos_cap_v2", n)

    @classmethod
    def scheduled(cls, beta_schedule: str = "linear", n: int = 1000, **betas: float) -> VariancePreserving:
        """A schedule that diffusers names: linear, scaled_linear (with beta_start, beta_end) or squaredcos_cap_v2."""
        from diffusers import DDIMScheduler  # loads diffusers

        scheduler = DDIMScheduler(beta_schedule=beta_schedule, num_train_timesteps=n, **betas)
        return cls(tuple(scheduler.alphas_cumprod.double().tolist()))

    @property
    def timesteps(self) -> int:
        """N, the length of the chain."""
        return len(self.alphas_cumprod)

    def _lookup(self, device: torch.device) -> _Lookup:
        if device not in self._tables:
            self._tables[device] = self._tables[torch.device("cpu")].to(device)
        return self._tables[device]

    def _position(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The timestep at or below t (float64), and the way to the next, in [0, 1)."""
        position = (t * (self.timesteps - 1)).clamp(0, self.timesteps - 1)
        low = position.detach().long()
        return low, position - low

    def log_snr(self, t: Tensor) -> Tensor:
        t = torch.as_tensor(t)
        return self._log_snr(t).to(t.dtype)

    def _log_snr(self, t: Tensor) -> Tensor:
        """`log_snr` in float64, looked up once for the same times."""
        return self._log_snrs.of(as_double(t), self._looked_up)

    def _looked_up(self, t: Tensor) -> Tensor:
        low, part = self._position(t)
        here, following = self._lookup(t.device).pairs[low].unbind(-1)
        return (1 - part) * here + part * following

    def time(self, log_snr: Tensor) -> Tensor:
        log_snr = torch.as_tensor(log_snr)
        table = self._lookup(log_snr.device)
        value = log_snr.double().clamp(table.least, table.greatest)
        low = torch.searchsorted(table.inner, -value.contiguous())
        here, fall = table.falls[low].unbind(-1)
        part = (here - value) / fall
        return ((low + part) / (self.timesteps - 1)).to(log_snr.dtype)

    def alpha(self, t: Tensor) -> Tensor:
        t = torch.as_tensor(t)
        return self._alphas.of(as_double(t), lambda t: self._scales(t).select(0, 0)).to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        t = torch.as_tensor(t)
        return self._sigmas.of(as_double(t), lambda t: self._scales(t).select(0, 1)).to(t.dtype)

    def _scales(self, t: Tensor) -> Tensor:
        """α and σ, (2, …), of t in float64."""
        return self._both.of(t, lambda t: torch.stack([log_snr := self._log_snr(t), -log_snr]).sigmoid().sqrt())

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(t)
        there = as_double(t)
        low, _ = self._position(there)
        slope = self._lookup(t.device).slopes[low] * (self.timesteps - 1)
        alpha, sigma = self.alpha(there), self.sigma(there)
        return (alpha * sigma**2 * slope / 2).to(t.dtype), (-sigma * alpha**2 * slope / 2).to(t.dtype)

    def grid(self, steps: int, start: float | None = None) -> Tensor:
        """diffusers' "trailing" spacing: whole timesteps, evenly spread from the start down (arXiv 2305.08891)."""
        last = self.timesteps if start is None else round(start * (self.timesteps - 1)) + 1
        if not 1 <= steps <= last:
            raise SettingsError(f"{steps} steps do not fit in a chain of {last} timesteps")
        index = np.arange(last, 0, -last / steps)[:steps].round() - 1  # as diffusers does, to the last rounding
        return torch.from_numpy(index) / (self.timesteps - 1)

    def discretise(self, n: int = 1000) -> Tensor:
        if n == self.timesteps:
            return torch.tensor(self.alphas_cumprod, dtype=torch.float64)
        return super().discretise(n)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "alphas_cumprod": list(self.alphas_cumprod)}


@dataclass(frozen=True)
class Flow(Process):
    """Straight paths (rectified flow, arXiv 2209.03003; flow matching, 2210.02747): α = 1 − t, σ = t, t in [0, 1]."""

    kind: ClassVar[str] = "flow"
    t_min: ClassVar[float] = 0.0
    t_max: ClassVar[float] = 1.0

    def log_snr(self, t: Tensor) -> Tensor:
        t = torch.as_tensor(t)
        there = as_double(t)
        return (2 * ((-there).log1p() - there.log())).to(t.dtype)

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-torch.as_tensor(log_snr) / 2)

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - torch.as_tensor(t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.as_tensor(t).clone()

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(torch.as_tensor(t))
        return -one, one

    def initial(self, noise: Tensor, t: float | None = None) -> Tensor:
        return noise if t is None else noise * t

    def grid(self, steps: int, start: float | None = None) -> Tensor:
        _at_least_one(steps)
        return (self.t_max if start is None else start) * (1 - torch.arange(steps, dtype=torch.float64) / steps)


@dataclass(frozen=True)
class EDM(Process):
    """Karras et al. (arXiv 2206.00364): α = 1, σ = t, t in [sigma_min, sigma_max], grids of equation 5 with `rho`."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    kind: ClassVar[str] = "edm"

    def __post_init__(self):
        if not 0 < self.sigma_min < self.sigma_max or self.rho <= 0:
            raise SettingsError(f"EDM needs 0 < sigma_min < sigma_max and rho > 0, got {self}")

    @property
    def t_min(self) -> float:
        return self.sigma_min

    @property
    def t_max(self) -> float:
        return self.sigma_max

    def log_snr(self, t: Tensor) -> Tensor:
        return -2 * torch.as_tensor(t).log()

    def time(self, log_snr: Tensor) -> Tensor:
        return (-torch.as_tensor(log_snr) / 2).exp()

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(torch.as_tensor(t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.as_tensor(t).clone()

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(t)
        return torch.zeros_like(t), torch.ones_like(t)

    def initial(self, noise: Tensor, t: float | None = None) -> Tensor:
        return noise * (self.sigma_max if t is None else t)

    def grid(self, steps: int, start: float | None = None) -> Tensor:
        _at_least_one(steps)
        return self.time_at(steps - 1 - torch.arange(steps, dtype=torch.float64), steps, start)

    def time_at(self, index: Tensor, n: int = 1000, start: float | None = None) -> Tensor:
        high, low = (start or self.sigma_max) ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        part = torch.as_tensor(index, dtype=torch.float64) / (n - 1) if n > 1 else torch.ones(1, dtype=torch.float64)
        return (low + part * (high - low)) ** self.rho

    def index_at(self, t: Tensor, n: int = 1000) -> Tensor:
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return (torch.as_tensor(t, dtype=torch.float64) ** (1 / self.rho) - low) / (high - low) * (n - 1)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "sigma_min": self.sigma_min, "sigma_max": self.sigma_max, "rho": self.rho}


@dataclass(frozen=True)
class BrownianBridge(Process):
    """Brownian bridges from data x0 to an independent x1 ~ N(0, end² I) (Peluchetti, arXiv 2304.00917).

    x_t = (1 − t) x0 + t x1 + noise √(t (1 − t)) n, t in [0, 1].
    x1 and n are one Gaussian: α = 1 − t, σ² = end² t² + noise² t (1 − t). noise = 0 and end = 1 is `Flow`. N(0, I)
    noise stands for the endpoint end · noise. Endpoints that depend on the data (pairs) are no process of this kind.
    """

    end: float = 1.0
    noise: float = 1.0
    kind: ClassVar[str] = "brownian_bridge"
    t_min: ClassVar[float] = 0.0
    t_max: ClassVar[float] = 1.0

    def __post_init__(self):
        if not self.end > 0 or not self.noise >= 0:
            raise SettingsError(f"a bridge needs end > 0 and noise ≥ 0, got {self}")

    def log_snr(self, t: Tensor) -> Tensor:
        t = torch.as_tensor(t)
        there = as_double(t)
        return (2 * ((-there).log1p() - self.sigma(there).log())).to(t.dtype)

    def time(self, log_snr: Tensor) -> Tensor:
        """t = 2 / (2 + n² w + √(n⁴ w² + 4 e² w)), the root in [0, 1] of (1 − t)² = w σ(t)² with w = exp(λ)."""
        log_snr = torch.as_tensor(log_snr)
        w = log_snr.double().exp()
        square = self.noise**2
        root = (square**2 * w.square() + 4 * self.end**2 * w).sqrt()
        return (2 / (2 + square * w + root)).to(log_snr.dtype)

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - torch.as_tensor(t)

    def sigma(self, t: Tensor) -> Tensor:
        t = torch.as_tensor(t)
        return (self.end**2 * t**2 + self.noise**2 * t * (1 - t)).sqrt()

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(t)
        slope = 2 * self.end**2 * t + self.noise**2 * (1 - 2 * t)
        return -torch.ones_like(t), slope / (2 * self.sigma(t).clamp_min(1e-12))

    def initial(self, noise: Tensor, t: float | None = None) -> Tensor:
        return noise * float(self.sigma(torch.tensor(self.t_max if t is None else t, dtype=torch.float64)))

    def grid(self, steps: int, start: float | None = None) -> Tensor:
        _at_least_one(steps)
        return (self.t_max if start is None else start) * (1 - torch.arange(steps, dtype=torch.float64) / steps)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "end": self.end, "noise": self.noise}


_LIKE: dict[tuple[torch.dtype, int], MadeOfTensors] = defaultdict(MadeOfTensors)


def like(factor: Tensor, x: Tensor) -> Tensor:
    """`factor` (N,) or a scalar, cast to x's dtype and shaped to multiply x (N, …)."""
    dtype, further = x.dtype, (1,) * (x.ndim - 1)

    def made(factor: Tensor) -> Tensor:
        factor = factor.to(dtype)
        return factor.reshape(factor.shape + further) if factor.ndim else factor

    return made(factor) if factor.dtype == dtype else _LIKE[dtype, len(further)].of(factor, made)


def _at_least_one(steps: int) -> None:
    if steps < 1:
        raise SettingsError(f"a grid needs at least one step, got {steps}")


_KINDS: dict[str, type[Process]] = {kind.kind: kind for kind in (VariancePreserving, Flow, EDM, BrownianBridge)}
