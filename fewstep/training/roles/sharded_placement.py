"""Networks of a round in shards: processes compute with doubles of them, of which each holds its rows."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fewstep.diffusion.denoiser import Denoiser
from fewstep.networks.sharded import hold_apart, own_parameters, shard, share_shards, whole
from fewstep.training.distributed import World
from fewstep.training.roles.ema import load_exactly
from fewstep.training.roles.placement import Placement
from fewstep.training.roles.trainable import trained_state


class ShardedPlacement(Placement):
    """Places doubles of networks, which themselves stay whole and on the CPU, and gives back what became of those.

    A double begins on the tensors of its network; `spread` leaves of each its rows, and on the device no more.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, resting: torch.dtype | None = None):
        super().__init__(torch.device("cpu"), dtype, resting)
        self._where = device
        self._doubled: dict[int, nn.Parameter] = {}     # by id of a parameter that was given
        self._doubles: dict[int, tuple[Denoiser, Denoiser]] = {}    # with what was given, by the id of that

    def place(self, network: Denoiser, rests: bool) -> Denoiser:
        """See Placement: a double of the network, on the CPU until `spread`."""
        if id(network) in self._doubles:
            return self._doubles[id(network)][0]
        if self.resting is None:
            network.to(self.device, self.dtype)
        for parameter in network.parameters():
            if id(parameter) not in self._doubled:
                self._doubled[id(parameter)] = nn.Parameter(parameter.detach(), parameter.requires_grad)
        double = copy.deepcopy(network, dict(self._doubled))
        double.evaluations = 0
        self._doubles[id(network)] = double, network
        return super().place(double, rests)

    def spread(self, networks: Iterable[Denoiser]) -> None:
        """See Placement; networks that had parameters in common have their rows in common."""
        from torch.distributed.device_mesh import init_device_mesh

        mesh = init_device_mesh(self._where.type, (World.current().size,))
        known: dict[int, nn.Parameter] = {}
        for network in dict.fromkeys(networks):
            network.chains = network.chains.to(self._where)
            before = own_parameters(network.network)
            if before:
                hold_apart(network.network, before)
                shard(network.network, mesh)
                share_shards(network.network, before, known)
        for held in (self._doubled, self._cast, self._buffers, self._lowered):
            held.clear()    # nothing is to be put back, and the rows are all that is needed

    def given(self, module: nn.Module) -> nn.Module:
        """See Placement."""
        return next((given for double, given in self._doubles.values() if double is module), module)

    def given_back(self, network: Denoiser, state: dict[str, Tensor] | None = None) -> Denoiser:
        """See Placement. All processes ask for it, and each gets it."""
        given, rows = self.given(network), trained_state(network) if state is None else state
        places, live = trained_state(given), network.state_dict()
        load_exactly(places, {name: whole(value, live[name]).to(places[name].dtype) for name, value in rows.items()},
                     "trained weights")  # fmt: skip
        return given.eval().requires_grad_(False)

    def restore(self) -> None:
        """Nothing: the networks that were given are as they were."""
