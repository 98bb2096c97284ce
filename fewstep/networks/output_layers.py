"""Further layers beside the last one of a network, whose outputs lie in the states as the network's own does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.diffusion.denoiser import Denoiser
from fewstep.networks.network_blocks import last_layer
from fewstep.util.errors import SettingsError

_REFINES = ("postprocess_conv",)
"""Attributes behind the last layer whose output is added to its own."""
_BASE = 2048  # numbers up to it are exact in half precision too


class SideOutputs(nn.Module):
    """The input of a network's last layer -> `count` states (N, count, *shape), 0 until trained.

    Args:
        layer: the last one. count: how many states. shape: of a state.
        places: (state's entries,) int64, where each entry of a state stands in the last layer's output for a sample,
            flattened; None for a layer whose output is a state as it is.
    """

    def __init__(self, layer: nn.Module, count: int, shape: tuple[int, ...], places: Tensor | None = None):
        super().__init__()
        self.count, self.shape = count, shape
        if isinstance(layer, nn.Conv2d):
            outputs = count * shape[0]
            made: nn.Module = nn.Conv2d(layer.in_channels, outputs, layer.kernel_size, padding=layer.padding)
        else:
            made = nn.Linear(layer.in_features, count * (shape[0] if places is None else layer.out_features))
        nn.init.zeros_(made.weight)
        nn.init.zeros_(made.bias)
        self.layer = made
        self.register_buffer("places", places, persistent=False)

    def forward(self, inner: Tensor) -> Tensor:
        """inner: what the last layer was given: (N, …)."""
        found = self.layer(inner)
        if self.places is not None:  # tokens (N, S, count * F): the entries of each state
            found = found.unflatten(2, (self.count, -1)).transpose(1, 2).flatten(2)[:, :, self.places]
        return found.reshape(len(inner), self.count, *self.shape)


def side_outputs(denoiser: Denoiser, count: int, example: tuple[Tensor, Tensor, Tensor | None]) -> SideOutputs:
    """`SideOutputs` of the denoiser's network.

    example: x (N, …), t (N,) and condition of a call. Raises SettingsError for a network whose last layer is not
    known, or behind which more happens than that its outputs are put in order.
    """
    layer = last_layer(denoiser.network)
    places = _places(denoiser, layer, example) if isinstance(layer, nn.Linear) and _has_tokens(denoiser) else None
    return SideOutputs(layer, count, denoiser.sample_shape, places).to(layer.weight.device)


def _has_tokens(denoiser: Denoiser) -> bool:
    return len(denoiser.sample_shape) > 1


@torch.no_grad()
def _places(denoiser: Denoiser, layer: nn.Module, example: tuple[Tensor, Tensor, Tensor | None]) -> Tensor:
    """Found by numbers in the place of the last layer's output: the network itself puts them in order."""
    found = [_ordered(denoiser, layer, example, number).round().long()
             for number in (lambda k: k % _BASE, lambda k: k // _BASE)]  # fmt: skip
    places = found[0] + _BASE * found[1]
    if len(torch.unique(places)) != places.numel():
        kind = type(denoiser.network).__name__
        raise SettingsError(f"a {kind} does more with the outputs of its last layer than to put them in order")
    return places


def _ordered(
    denoiser: Denoiser, layer: nn.Module, example: tuple[Tensor, Tensor, Tensor | None],
    number: Callable[[Tensor], Tensor],
) -> Tensor:  # fmt: skip
    """The entries of one sample's state (state's entries,) where the last layer puts out `number` of their places."""
    whole: list[Tensor] = []

    def numbers(_module: nn.Module, _values: Any, output: Tensor) -> Tensor:
        count = output[0].numel()
        return number(torch.arange(count, device=output.device)).to(output.dtype).reshape(output[0].shape).expand_as(
            output)  # fmt: skip

    def keep(_module: nn.Module, _values: Any, output: Any) -> None:
        whole.append(output[0])

    refining = [getattr(denoiser.network, name) for name in _REFINES if hasattr(denoiser.network, name)]
    handles = [layer.register_forward_hook(numbers), denoiser.network.register_forward_hook(keep)]
    handles += [one.register_forward_hook(lambda _m, _v, output: torch.zeros_like(output)) for one in refining]
    try:
        denoiser.predict(*example)
    finally:
        for handle in handles:
            handle.remove()
    state = whole[0][0]
    return state[: denoiser.sample_shape[0]].flatten()  # learned variances stand behind the state's own channels
