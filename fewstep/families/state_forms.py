"""How the state that a denoiser is given differs from the one that the sampler steps."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fewstep.util.errors import SettingsError


def added_dimension(x: Tensor, state: Tensor) -> int | None:
    """The dimension, of length 1, that the denoiser's state x has and the sampler's has not; None where x has none."""
    found = [dim for dim in range(1, x.ndim) if x.ndim == state.ndim + 1 and x.shape[dim] == 1
             and x.shape[1:dim] + x.shape[dim + 1 :] == state.shape[1:]]  # fmt: skip
    return found[0] if found else None


def joined_dimension(pipe: Any, x: Tensor, state: Tensor) -> int:
    """The dimension along which something stands behind the state in the denoiser's input."""
    found = [dim for dim in range(1, state.ndim) if x.ndim == state.ndim and x.shape[dim] != state.shape[dim]]
    if len(found) != 1 or x.shape[found[0]] < state.shape[found[0]]:
        raise SettingsError(
            f"{type(pipe).__name__}: the denoiser is given {tuple(x.shape)} where the scheduler steps "
            f"{tuple(state.shape)}; only further channels are understood"
        )
    return found[0]


def beside_state(x: Tensor, state: Tensor, along: int) -> Tensor:
    """What stands behind the state in the denoiser's input, along this dimension."""
    return x.narrow(along, state.shape[along], x.shape[along] - state.shape[along]).detach().cpu().clone()
