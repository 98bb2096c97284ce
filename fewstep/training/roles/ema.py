"""Exponential moving average of a network's weights."""

import torch
from torch import Tensor, nn

from fewstep.training.roles.trainable import trained_state


class Average:
    """avg <- avg + (1 - d) (weights - avg), d = min(decay, (1 + n) / (10 + n)) at the n-th update.

    Buffers are copied, held weights left out. decay 0: the average is the network itself. `into`: tensors that hold the
    average, such as those of another network of the same kind; None: own ones. `apart`: the average lies on the CPU,
    and is brought to the network tensor by tensor where it changes, so that its bits are the same.
    """

    def __init__(self, network: nn.Module, decay: float, into: dict[str, Tensor] | None = None, apart: bool = False):
        self.decay, self._apart = decay, apart
        own = {name: _own(value, apart) for name, value in trained_state(network).items()} if into is None else into
        self.weights = own
        live = trained_state(network, keep_vars=True)
        self._averaged = [name for name, value in live.items() if value.is_floating_point()]
        self._copied = [name for name in live if name not in set(self._averaged)]
        self._live = live
        self._lists = ([self.weights[n] for n in self._averaged], [live[n] for n in self._averaged])

    def update(self, n: int) -> None:
        """Takes in the network's weights after its n-th update (n from 0)."""
        self.mix(min(self.decay, (1 + n) / (10 + n)) if self.decay else 0.0)

    @torch.no_grad()
    def mix(self, decay: float) -> None:
        """avg <- avg + (1 - decay) (weights - avg)."""
        averages, live = self._lists
        if self._apart:
            for average, value in zip(averages, live, strict=True):
                here = average.to(value.device)
                torch._foreach_lerp_([here], [value], 1 - decay)
                average.copy_(here)
        else:
            torch._foreach_lerp_(averages, live, 1 - decay)
        for name in self._copied:
            self.weights[name].copy_(self._live[name])

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Takes these weights over; raises ValueError if they are not of this network."""
        load_exactly(self.weights, state, "average")


def _own(value: Tensor, apart: bool) -> Tensor:
    return value.detach().to("cpu", copy=True) if apart else value.detach().clone()


@torch.no_grad()
def load_exactly(into: dict[str, Tensor], state: dict[str, Tensor], what: str) -> None:
    """Copies `state` into tensors of exactly the same names, shapes and dtypes; raises ValueError otherwise."""
    if into.keys() != state.keys():
        odd = sorted(into.keys() ^ state.keys())
        raise ValueError(f"{what}: tensors differ from the network's, for instance '{odd[0]}'")
    for name, value in into.items():
        if value.shape != state[name].shape or value.dtype != state[name].dtype:
            raise ValueError(f"{what}: '{name}' has shape {tuple(state[name].shape)}, expected {tuple(value.shape)}")
        value.copy_(state[name])
