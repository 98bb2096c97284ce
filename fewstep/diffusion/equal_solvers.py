"""Which solvers are one and the same at a number of steps, by what they compute and not by their names."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from fewstep.diffusion.adapters import Adapter
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.processes import Process, VariancePreserving
from fewstep.diffusion.randomness import generator
from fewstep.diffusion.sampling import sample
from fewstep.diffusion.solvers import is_stochastic

_PROBES = 64
_ROUNDING = 1e-4    # of numbers around 1: solvers compute in float32, and different ones differ by some hundredths


class _Drawn(Adapter):
    """A network whose output is noise of its own at each call, whatever it is given; notes the calls."""

    def __init__(self) -> None:
        self.times: list[Tensor] = []
        self.states: list[Tensor] = []

    def __call__(self, network: nn.Module, process: Process, x: Tensor, t: Tensor, labels: object) -> Tensor:
        self.times.append(t[:1])
        self.states.append(x)
        return _noise(len(self.times))


def equal(one: str, other: str, steps: int) -> bool:
    """Whether two solvers make the same samples of the same noise in so many steps, whatever the network.

    Without a network's help a deterministic solver is a linear map, of the noise and the outputs of its calls to the
    states of its calls and to the sample. Two are equal where they call at the same times and the maps agree, which
    they do if they agree on random outputs. A process only says where the nodes of the same map lie.
    """
    if is_stochastic(one) or is_stochastic(other):
        return one == other
    mine, theirs = _image(one, steps), _image(other, steps)
    return mine.shape == theirs.shape and torch.allclose(mine, theirs, rtol=_ROUNDING, atol=_ROUNDING)


@lru_cache(maxsize=256)
def _image(solver: str, steps: int) -> Tensor:
    """(2 calls + 1, _PROBES): the times and states of the calls, and the sample."""
    seen = _Drawn()
    denoiser = Denoiser(nn.Identity(), VariancePreserving.cosine(), "v_prediction", (_PROBES,), adapter=seen)
    made = sample(denoiser, _noise(0), solver=solver, steps=steps)
    times = [time.float().expand(_PROBES) for time in seen.times]
    return torch.stack([*times, *(state[0] for state in seen.states), made.x[0]])


def _noise(number: int) -> Tensor:
    return torch.randn(1, _PROBES, generator=generator(0, "equal-solvers", number))
