"""Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685) by peft: a layer's weight W becomes W + alpha / rank · B A.

Every linear and convolution layer of the network gets one, but for convolutions of groups of channels, which no product
of two full matrices changes; B starts at zero, so the network starts as it was. Only A and B are trained. Merging gives
back the layers of the original kind.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from fewstep.networks.extra_inputs import InputEmbedding
from fewstep.networks.initial_weights import initialise


def add_lora(network: nn.Module, rank: int, alpha: float, generator: torch.Generator) -> frozenset[str]:
    """Puts adapters on `network`, in place; A is drawn from `generator`. A network that has them keeps those.

    Returns the names of the parameters that are not to be trained: all but the adapters and the embeddings of further
    inputs, which have no earlier weights to keep.
    """
    if not has_lora(network):
        import peft  # slow to import, and only here

        fresh = _fresh(network)
        layers = [name for name, layer in network.named_modules() if _takes_one(layer) and not name.startswith(fresh)]
        training = network.training
        with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
            peft.inject_adapter_in_model(peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers), network)
        for name, layer in network.named_modules():
            if name.endswith(".lora_A.default"):
                device = layer.weight.device
                initialise(layer.to("cpu"), generator).to(device)
        network.train(training).requires_grad_(True)
    fresh = _fresh(network)
    return frozenset(
        name for name, _ in network.named_parameters() if ".lora_" not in name and not name.startswith(fresh)
    )


def adapter_parameters(network: nn.Module, rank: int) -> int:
    """How many parameters `add_lora` would put on `network`, which may lie on meta, and has none yet."""
    found = 0
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            found += rank * (layer.in_features + layer.out_features)
        elif _takes_one(layer):
            found += rank * (layer.in_channels * math.prod(layer.kernel_size) + layer.out_channels)
    return found


def has_lora(network: nn.Module) -> bool:
    """Whether `network` has adapters."""
    return any(hasattr(layer, "lora_A") for layer in network.modules())


@torch.no_grad()
def merge_lora(network: nn.Module) -> nn.Module:
    """`network` itself if it has no adapters, else a copy whose layers hold W + alpha / rank · B A."""
    if not has_lora(network):
        return network
    network = copy.deepcopy(network)
    for name, layer in [(name, layer) for name, layer in network.named_modules() if hasattr(layer, "lora_A")]:
        layer.merge()
        network.set_submodule(name, layer.get_base_layer())
    del network.peft_config
    return network


def _takes_one(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def _fresh(network: nn.Module) -> tuple[str, ...]:
    return tuple(
        f"{name}.{part}."
        for name, layer in network.named_modules() if isinstance(layer, InputEmbedding)
        for part in ("second", "scale")
    )  # fmt: skip
