"""Networks as a round computes with them: on its device, in its format; what rests in a shorter one where asked."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fewstep.diffusion.denoiser import Denoiser
from fewstep.networks.lora import has_lora
from fewstep.training.roles.ema import load_exactly
from fewstep.training.roles.trainable import trained_parameters, trained_state


class Placement:
    """Places networks, and gives back what was cast.

    Args:
        device: of the round. dtype: of what is trained, and of the rest too unless `resting` says otherwise.
        resting: format of networks that rest, and of what lies below adapters.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, resting: torch.dtype | None = None):
        self.device, self.dtype, self.resting = device, dtype, resting
        self._cast: dict[int, tuple[nn.Parameter, Tensor]] = {}
        self._buffers: list[tuple[dict[str, Tensor | None], str, Tensor]] = []
        self._lowered: list[Denoiser] = []

    def place(self, network: Denoiser, rests: bool) -> Denoiser:
        """The network on the device in the format of the round, frozen until its turn; `rests`: it has no turn."""
        if self.resting is not None and (rests or has_lora(network.network)):
            trained = set() if rests else {id(parameter) for _, parameter in trained_parameters(network)}
            self._lower(network.network, trained, buffers=rests)
            self._lowered.append(network)
            network.to(self.device)
        else:
            network.to(self.device, self.dtype)
        return network.eval().requires_grad_(False)

    def spread(self, networks: Iterable[Denoiser]) -> None:
        """Called once all networks of the round, and copies of them, are there: they are where they are computed with.
        """

    def given(self, module: nn.Module) -> nn.Module:
        """The network that `place` was given for this one, or another module as it is."""
        return module

    def given_back(self, network: Denoiser, state: dict[str, Tensor] | None = None) -> Denoiser:
        """The network that `place` was given for this one, with `state` of what is trained (as `trained_state` has it;
        None: as it stands), whole and frozen."""
        if state is not None:
            load_exactly(trained_state(network), state, "trained weights")
        return network.requires_grad_(False)

    def restore(self) -> None:
        """Puts back the tensors that were cast; the networks then lie on the CPU, where those have been kept."""
        for parameter, value in self._cast.values():
            parameter.data = value
        for places, name, value in self._buffers:
            places[name] = value
        for network in self._lowered:
            network.to("cpu")
        self._cast.clear()
        self._buffers.clear()
        self._lowered.clear()

    @property
    def kept(self) -> list[Tensor]:
        """The tensors that `restore` puts back."""
        return [value for _, value in self._cast.values()] + [value for _, _, value in self._buffers]

    def _lower(self, network: nn.Module, trained: set[int], buffers: bool) -> None:
        """Casts the network's parameters but for those that are trained, those of several networks once, and buffers,
        which belong to what is trained where anything is."""
        for module in network.modules():
            for parameter in module._parameters.values():
                if parameter is not None and id(parameter) not in trained and id(parameter) not in self._cast:
                    self._cast[id(parameter)] = (parameter, parameter.data.cpu())
                    parameter.data = parameter.data.to(self.resting)
            for name, value in module._buffers.items() if buffers else ():
                if value is not None and value.is_floating_point() and value.dtype != self.resting:
                    self._buffers.append((module._buffers, name, value.cpu()))
                    module._buffers[name] = value.to(self.resting)
