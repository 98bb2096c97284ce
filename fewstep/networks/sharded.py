"""Networks in shards: every process of a group holds some rows of each parameter, and a block's are gathered for as
long as it is called.

FSDP2 (torch.distributed.fsdp.fully_shard) by the network's blocks and the modules beside them. Gradients are summed
over the processes, and each keeps those of its rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fewstep.diffusion.denoiser import Denoiser
from fewstep.networks.guide_network import GuidedNetwork
from fewstep.networks.network_blocks import blocks

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

# torch's tensors over several processes take seconds to import, and are imported where there are such


def units(network: nn.Module) -> list[nn.Module]:
    """The modules whose parameters are gathered together, each for its own call, inner ones first; the network is last.

    Its blocks and what stands beside them. What a network asks of a block before or after its call (a DiT the embedding
    of its first) is one of its own. Raises SettingsError for a network without blocks.
    """
    if isinstance(network, GuidedNetwork):
        return [*units(network.base), *units(network.guide), network]
    own = blocks(network)
    asked = [module for block in own for module in block.modules()
             if hasattr(module, "class_embedder") and hasattr(module, "timestep_embedder")]  # fmt: skip
    beside = [child for child in network.children() if child not in own and not isinstance(child, nn.ModuleList)
              and any(True for _ in child.parameters())]  # fmt: skip
    return [*asked, *own, *beside, network]


def shard(network: nn.Module, mesh: DeviceMesh) -> None:
    """Leaves of every parameter this process's rows, on its device, in place.

    A parameter that is one number is no rows, and stays whole. Raises SettingsError for a network without blocks.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard

    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")    # which nobody changes in place
    numbers = {parameter for parameter in network.parameters() if parameter.ndim == 0}
    for number in numbers:
        number.data = number.data.to(mesh.device_type)
    for module in units(network):
        # what is not freed after a forward pass would be there, and old, after the next update
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=numbers)
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def hold_apart(network: nn.Module, before: dict[tuple[str, str], nn.Parameter]) -> None:
    """Gives the network parameters of its own on the same tensors, so that what moves them moves nobody else's."""
    own: dict[int, nn.Parameter] = {}
    for (path, name), parameter in before.items():
        made = own.setdefault(id(parameter), nn.Parameter(parameter.detach(), parameter.requires_grad))
        network.get_submodule(path)._parameters[name] = made


def share_shards(network: nn.Module, before: dict[tuple[str, str], nn.Parameter],
                 known: dict[int, nn.Parameter]) -> None:  # fmt: skip
    """Has the network hold the shards that another one has of the same parameters.

    before: the parameters that it had, by module and name. known: shards by `id` of the parameter; takes in new ones.
    """
    for (path, name), parameter in before.items():
        places = network.get_submodule(path)._parameters
        places[name] = known.setdefault(id(parameter), places[name])    # taken over at the first call


def own_parameters(network: nn.Module) -> dict[tuple[str, str], nn.Parameter]:
    """The parameters of the network by module and name, one that has several places at each."""
    return {(path, name): parameter for path, module in network.named_modules()
            for name, parameter in module._parameters.items() if parameter is not None}  # fmt: skip


def end_of_step(denoisers: Iterable[Denoiser]) -> None:
    """Forgets in which order the blocks were called, which FSDP2 does after a backward pass alone."""
    from torch.distributed.fsdp import FSDPModule

    for denoiser in denoisers:
        if denoiser.evaluations and isinstance(denoiser.network, FSDPModule):   # one that was not called knows no order
            denoiser.network.reset_iter_state()


def is_sharded(value: Tensor) -> bool:
    """Whether other processes hold further rows of this tensor."""
    return hasattr(value, "to_local")


def here(value: Tensor) -> Tensor:
    """What this process holds of a tensor: its rows, or all of one that is not sharded."""
    with torch.no_grad():
        return value.to_local() if is_sharded(value) else value


def whole(rows: Tensor, like: Any) -> Tensor:
    """The tensor of which the processes hold `rows`, as they do of `like`: all of them ask for it; on the CPU."""
    from torch.distributed.tensor import DTensor

    if not is_sharded(like):
        return rows.cpu()
    given = DTensor.from_local(rows.to(like.device), like.device_mesh, like.placements, shape=like.shape,
                               stride=like.stride())  # fmt: skip
    return given.full_tensor().cpu()


def rows_of(tensor: Tensor, rank: int, size: int) -> Tensor:
    """The rows of a whole tensor that process `rank` of `size` holds: equal runs, the last ones shorter or empty."""
    each = -(-len(tensor) // size)
    return tensor[rank * each : (rank + 1) * each]
