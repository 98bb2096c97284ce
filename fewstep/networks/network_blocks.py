"""The blocks of a network, from its input to its output: the unit of features, checkpointing and depth.

They are found by the names that diffusers gives them, not by the class of the network.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from fewstep.util.errors import SettingsError

PARTS = (
    "down_blocks", "joint_transformer_blocks", "transformer_blocks", "blocks", "single_transformer_blocks", "layers",
    "mid_block", "up_blocks",
)  # fmt: skip
"""Attributes that hold blocks, in the order in which a network goes through those that it has."""
LAST = ("conv_out", "leave", "proj_out", "proj_out_2")
"""Attributes that hold the last layer with weights; DiT's is the second of two."""


def stages(network: nn.Module) -> dict[str, list[nn.Module]]:
    """The modules of each part of `network` from its input to its output; a part may be empty.

    A UNet: its down blocks, middle block and up blocks. A transformer: its blocks, of one or two kinds. A ResidualMLP:
    its layers and the middle one. Raises SettingsError for another network.
    """
    found = {name: getattr(network, name) for name in PARTS if hasattr(network, name)}
    named = {name: list(part) if isinstance(part, nn.ModuleList) else [part] if part is not None else []
             for name, part in found.items()}  # fmt: skip
    if not any(named.values()):
        raise SettingsError(f"a {type(network).__name__} has no stages that are known")
    return named


def blocks(network: nn.Module) -> list[nn.Module]:
    """All blocks of `network` in the order of its call. Raises SettingsError for a network without any."""
    return [block for part in stages(network).values() for block in part]


def middle(network: nn.Module) -> nn.Module:
    """The middle block, or in a network without one the block that ends the first half of all.

    Raises SettingsError for a network whose middle block was taken out, or without blocks.
    """
    if not hasattr(network, "mid_block"):
        found = blocks(network)
        return found[(len(found) + 1) // 2 - 1]
    if network.mid_block is None:
        raise SettingsError(f"{type(network).__name__} has no mid_block to take features from")
    return network.mid_block


def matching(smaller: nn.Module, larger: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """(stage of `smaller`, stage of `larger`) after which both have done the same share of a part's stages.

    A part that one of them lacks has no pair.
    """
    mine, theirs = stages(smaller), stages(larger)
    if mine.keys() != theirs.keys():
        raise SettingsError(f"a {type(smaller).__name__} and a {type(larger).__name__} have no stages in common")
    return [
        (stage, theirs[part][-(-(k + 1) * len(theirs[part]) // len(own)) - 1])
        for part, own in mine.items() if theirs[part]
        for k, stage in enumerate(own)
    ]  # fmt: skip


def last_layer(network: nn.Module) -> nn.Module:
    """The linear or convolution layer that `network` ends in; SettingsError for a network that is not known."""
    for name in reversed(LAST):
        layer = getattr(network, name, None)
        if layer is not None:
            return getattr(layer, "base_layer", layer)  # under adapters: the layer they adapt
    raise SettingsError(f"a {type(network).__name__} has no last layer that is known")


def image_stream(block: nn.Module, values: Sequence[Any], named: Mapping[str, Any], output: Any) -> Tensor:
    """What a block returns of the states (N, …), where it returns several: not the text's tokens, nor what a UNet's
    block keeps for its counterpart.

    diffusers knows it of the blocks of most transformers; of others it is what has the shape of the states that came
    in, and first of all the first.
    """
    if isinstance(output, Tensor):
        return output
    place = _streams(block).get("hidden_states")
    if place is not None:
        return output[place]
    state = arguments(block, values, named).get("hidden_states")
    alike = [x for x in output if isinstance(x, Tensor) and isinstance(state, Tensor) and x.shape == state.shape]
    return alike[0] if alike else output[0]


def unchanged_streams(block: nn.Module, values: Sequence[Any], named: Mapping[str, Any], output: Any) -> Any:
    """What a block of a transformer would return if it changed nothing: its inputs in the place of its outputs."""
    taken = arguments(block, values, named)
    if isinstance(output, Tensor):
        return taken["hidden_states"]
    found = list(output)
    for name, place in _streams(block).items():
        if place is not None and isinstance(found[place], Tensor):
            found[place] = taken[name]
    return tuple(found)


def arguments(block: nn.Module, values: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a block's call, by name."""
    bound = inspect.signature(type(block).forward).bind_partial(block, *values, **named).arguments
    return {name: value for name, value in bound.items() if name != "self"}


def _streams(block: nn.Module) -> dict[str, int | None]:
    """The places of the states and of the text in what a block returns, as diffusers has them registered; {} for a
    block that it does not know."""
    from diffusers.hooks._helpers import TransformerBlockRegistry  # loads every transformer of diffusers

    for kind in type(block).__mro__:    # a sharded block is of a class of its own, below that of diffusers
        try:
            known = TransformerBlockRegistry.get(kind)
        except ValueError:  # what it raises for a class that is not registered
            continue
        return {"hidden_states": known.return_hidden_states_index,
                "encoder_hidden_states": known.return_encoder_hidden_states_index}  # fmt: skip
    return {}
