"""Networks that hold the same tensors where none of them trains these: one base under the adapters of several roles."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from torch import nn

from fewstep.diffusion.denoiser import Denoiser


def copied(denoiser: Denoiser, shared: Iterable[nn.Parameter] = ()) -> Denoiser:
    """A copy of `denoiser` in which these parameters are its own ones, not copies: whatever moves or casts them does so
    for both."""
    return copy.deepcopy(denoiser, {id(parameter): parameter for parameter in shared})


def held_parameters(denoiser: Denoiser) -> list[nn.Parameter]:
    """The parameters that training leaves as they are."""
    return [parameter for name, parameter in denoiser.named_parameters() if name in denoiser.held]
