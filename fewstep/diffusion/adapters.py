"""How a network wants x, t and the label, and what its raw output means: the last step to a foreign network."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewstep.diffusion.conditions import Condition
from fewstep.diffusion.made_of_tensors import MadeOfTensors
from fewstep.diffusion.network_call import CLASSES, NetworkCall
from fewstep.diffusion.network_inputs import Given
from fewstep.diffusion.processes import EDM, Process, VariancePreserving, like
from fewstep.util.errors import SettingsError

_TIMESTEPS: dict[tuple[float, float], MadeOfTensors] = defaultdict(MadeOfTensors)

Labels = Tensor | Condition | Given | None


class Adapter:
    """Calls a network. Called with x (N, …), native times t (N,) float64 and labels: (N,) int64, None, a `Condition`
    for a network that takes tensors, or `Given` for one with further inputs, which goes through as it is."""

    kind: ClassVar[str]

    def __call__(self, network: nn.Module, process: Process, x: Tensor, t: Tensor, labels: Labels) -> Tensor:
        """The output, of the denoiser's prediction type and of x's shape."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready description."""
        described = {"kind": self.kind, **{one.name: getattr(self, one.name) for one in fields(self)}}
        if not described.get("offset", 1.0):
            del described["offset"]
        call = described.pop("call", CLASSES)
        return described if call is CLASSES else described | {"call": call.to_dict()}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Adapter:
        """The adapter that `to_dict` described. Raises SettingsError for what it does not know."""
        rest = dict(data)
        name = rest.pop("kind", None)
        if name not in _KINDS:
            raise SettingsError(f"unknown network adapter {name!r}; known: {', '.join(sorted(_KINDS))}")
        if "call" in rest:
            rest["call"] = NetworkCall.from_dict(rest["call"])
        try:
            return _KINDS[name](**rest)
        except TypeError as error:
            raise SettingsError(f"network adapter {name!r}: {error}") from None


class DiffusersAdapter(Adapter):
    """A network F of diffusers: output = c_skip x + c_out F(c_in x, time, condition), called as `call` says."""

    call: NetworkCall

    def coefficients(self, t: Tensor) -> tuple[Tensor, ...]:
        """(c_in, time, c_skip, c_out), each of t's shape, at native times t (float64)."""
        raise NotImplementedError

    def __call__(self, network: nn.Module, process: Process, x: Tensor, t: Tensor, labels: Labels) -> Tensor:
        c_in, time, skip, out = self.coefficients(t)
        raw = self._raw(network, like(c_in, x) * x, time, labels)
        return like(skip, x) * x + like(out, x) * raw

    def _raw(self, network: nn.Module, x: Tensor, time: Tensor, labels: Labels) -> Tensor:
        raw = self.call(network, x.to(next(network.parameters()).dtype), time.float(), labels)
        return raw[:, : x.shape[1]].to(x.dtype)  # a network with learned variances has twice the channels


@dataclass(frozen=True)
class Timestep(DiffusersAdapter):
    """A network of diffusers that takes x as it is and the timestep t · scale + offset.

    scale: N − 1 for a chain of N timesteps, num_train_timesteps (1000) for flow matching, 1 where a pipeline
        divides it, −1 with the offset 1 where its network's time runs from noise to data.
    """

    scale: float
    call: NetworkCall = CLASSES
    offset: float = 0.0
    kind: ClassVar[str] = "timestep"

    def coefficients(self, t: Tensor) -> tuple[Tensor, ...]:
        zero, one = torch.zeros_like(t), torch.ones_like(t)
        return one, self.timestep(t), zero, one

    def __call__(self, network: nn.Module, process: Process, x: Tensor, t: Tensor, labels: Labels) -> Tensor:
        return self._raw(network, x, self.timestep(t), labels)

    def timestep(self, t: Tensor) -> Tensor:
        """What the network is given for native times t, of t's shape: t passed through float32 must not turn timestep
        999 into 998.99994."""
        return _TIMESTEPS[self.scale, self.offset].of(t, self._timestep)

    def _timestep(self, t: Tensor) -> Tensor:
        timestep = t * self.scale
        away = (timestep.round() - timestep).detach()
        near = 1e-6 * abs(self.scale)
        return timestep + (away - functional.hardshrink(away, near)) + self.offset  # what is far away is left there


@dataclass(frozen=True)
class Preconditioned(DiffusersAdapter):
    """A UNet2DModel under the preconditioning of EDM (arXiv 2206.00364, table 1) or of consistency models
    (arXiv 2303.01469, appendix C), in t = σ; its denoiser has prediction type `sample`.

    variant: "edm" (time input ln σ / 4), "cosine" (2 atan(σ) / π, as Stable Audio), or "consistency" (250 ln σ, and
        x0(x, sigma_min) = x).
    sign: of the network's output; −1 is what diffusers' EDM schedulers do for `v_prediction`.
    """

    variant: str = "edm"
    sigma_data: float = 0.5
    sigma_min: float = 0.002
    sign: float = 1.0
    call: NetworkCall = CLASSES
    kind: ClassVar[str] = "preconditioned"

    def __post_init__(self):
        if self.variant not in _NOISE:
            raise SettingsError(f"unknown preconditioning {self.variant!r}; known: {', '.join(_NOISE)}")

    def coefficients(self, t: Tensor) -> tuple[Tensor, ...]:
        spread = (t**2 + self.sigma_data**2).sqrt()
        low = self.sigma_min if self.variant == "consistency" else 0.0
        skip = self.sigma_data**2 / ((t - low) ** 2 + self.sigma_data**2)
        out = self.sign * (t - low) * self.sigma_data / spread
        return 1 / spread, _NOISE[self.variant](t), skip, out


@dataclass(frozen=True)
class Angle(Adapter):
    """Our own networks: unit-variance input x/√(α²+σ²) and the angle φ = atan(σ/α) in [0, π/2]; predicts v.

    Serves every process alike; the denoiser has prediction type `v_prediction`.
    """

    kind: ClassVar[str] = "angle"

    def __call__(self, network: nn.Module, process: Process, x: Tensor, t: Tensor, labels: Labels) -> Tensor:
        alpha, sigma = process.alpha(t), process.sigma(t)
        scale = like((alpha**2 + sigma**2).sqrt(), x)
        dtype = next(network.parameters()).dtype
        return scale * network((x / scale).to(dtype), torch.atan2(sigma, alpha).to(dtype), labels).to(x.dtype)


def adapter_for(process: Process) -> Adapter:
    """What diffusers expects of a UNet2DModel in this process."""
    if isinstance(process, VariancePreserving):
        return Timestep(process.timesteps - 1)
    if isinstance(process, EDM):
        return Preconditioned()
    return Timestep(1000)


_NOISE: dict[str, Callable[[Tensor], Tensor]] = {
    "edm": lambda sigma: sigma.log() * 0.25,
    "consistency": lambda sigma: sigma.log() * 250.0,
    "cosine": lambda sigma: sigma.atan() / math.pi * 2,
}
"""The time that a preconditioned network is given, of σ."""

_KINDS: dict[str, type[Adapter]] = {kind.kind: kind for kind in (Timestep, Preconditioned, Angle)}
