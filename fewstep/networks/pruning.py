"""A smaller network of the same kind, with fresh weights or those that remain of a larger one.

All stay what they are: a UNet or a ResidualMLP with fewer channels and layers, a transformer of diffusers with fewer
blocks, so that the smaller network loads and exports as any other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from diffusers import ConfigMixin
from torch import Tensor, nn

from fewstep.networks.initial_weights import build
from fewstep.networks.network_blocks import arguments, stages, unchanged_streams
from fewstep.networks.unet_mlp import ResidualMLP
from fewstep.util.errors import SettingsError

_LAYER = re.compile(r"^((?!down_|up_)\w*blocks|layers|(?:down|up)_blocks\.\d+\.(?:resnets|attentions))\.(\d+)\.")
DEPTHS = {"single_transformer_blocks": "num_single_layers", "joint_transformer_blocks": "num_mmdit_layers"}
"""What the configuration of a transformer calls the number of its blocks, by part; of others it is `num_layers`."""
Layers = dict[str, list[int]]


def smaller(
    network: nn.Module, width: float, depth: float, middle: bool, generator: torch.Generator, outputs: int | None = None
) -> nn.Module:
    """A network like `network` with fresh weights from `generator`.

    Args:
        width: share of the channels, of each resolution a multiple of 8 (ResidualMLP: any number).
        depth: share of the residual layers, per resolution, or of a transformer's blocks; at least one stays.
        middle: whether it has the middle block, of networks that have one.
        outputs: channels or units that come out, if not as many as go in.
    Raises SettingsError for a network of another kind, or for what it cannot be made.
    """
    if isinstance(network, ResidualMLP):
        config = network.config | {"middle": middle and network.mid_block is not None, "outputs": outputs}
        config["width"] = max(round(config["width"] * width), 1)
        config["depth"] = len(_kept_count(network, depth)["blocks"])
        return build(lambda: ResidualMLP(**config), generator)
    require_smaller(network, width, outputs)
    config = {name: value for name, value in network.config.items() if not name.startswith("_")}
    if not hasattr(network, "down_blocks"):
        for part, kept in _kept_count(network, depth).items():
            config[_depth(part)] = len(kept)
        return build(lambda: type(network)(**config), generator)
    widths = tuple(max(8 * round(channels * width / 8), 8) for channels in config["block_out_channels"])
    groups = _groups(widths, config["norm_num_groups"], min(config["block_out_channels"]))
    config |= {"block_out_channels": widths, "norm_num_groups": groups}
    config["layers_per_block"] = max(round(config["layers_per_block"] * depth), 1)
    config["mid_block_type"] = config["mid_block_type"] if middle else None
    heads = config["attention_head_dim"]
    if isinstance(heads, list | tuple):  # of a UNet with text: the number of heads of each resolution
        config["attention_head_dim"] = tuple(math.gcd(h, w) for h, w in zip(heads, widths, strict=True))
    elif heads:
        config["attention_head_dim"] = min(heads, min(widths))
    if outputs is not None:
        config["out_channels"] = outputs
    return build(lambda: type(network)(**config), generator)


def require_smaller(network: nn.Module, width: float = 1.0, outputs: int | None = None) -> None:
    """Raises SettingsError where `smaller` cannot make a network of this width like `network`."""
    kind = type(network).__name__
    if isinstance(network, ResidualMLP):
        return
    if hasattr(network, "down_blocks"):
        if not isinstance(network.config.get("layers_per_block"), int):
            raise SettingsError(f"a {kind} with numbers of layers that differ by block cannot be made smaller")
        return
    if not isinstance(network, ConfigMixin):
        raise SettingsError(f"a {kind} cannot be made smaller")
    parts = stages(network)
    unnamed = [part for part in parts if not isinstance(network.config.get(_depth(part)), int)]
    if unnamed:
        raise SettingsError(f"a {kind} cannot be made smaller: its configuration does not say how many "
                            f"{', '.join(unnamed)} it has")  # fmt: skip
    if network.config.get("dual_attention_layers"):
        raise SettingsError(f"a {kind} whose blocks are of two kinds by their numbers cannot be made smaller")
    if width != 1 or outputs is not None:
        raise SettingsError(f"a {kind} is made smaller in depth only; leave `width` at 1")


def _depth(part: str) -> str:
    return DEPTHS.get(part, "num_layers")


def _groups(widths: tuple[int, ...], most: int, width_before: int) -> int:
    """Groups of the normalisation: as many as before, or as leave them as many channels, but at most 4."""
    least = min(width_before // most, 4)
    common = math.gcd(*widths)
    return max(g for g in range(1, most + 1) if common % g == 0 and (min(widths) // g >= least or g == 1))


@torch.no_grad()
def inherit(small: nn.Module, large: nn.Module, kept: Layers) -> nn.Module:
    """Copies into `small` what remains of `large`: the layers of `kept`, of each the first channels.

    An up block's layer sees two joined inputs, of each of which it keeps the first channels. What has no counterpart
    keeps its fresh weights. In place.
    """
    theirs = large.state_dict()
    for name, value in small.state_dict().items():
        source = theirs.get(_LAYER.sub(lambda found: f"{found[1]}.{kept[found[1]][int(found[2])]}.", name))
        if source is None or any(a > b for a, b in zip(value.shape, source.shape, strict=True)):
            continue
        index = [slice(0, size) for size in value.shape]
        joined = _joined(name, small), _joined(name, large)
        dimension = 0 if source.ndim == 1 else 1
        if None not in joined and "norm2" not in name and "conv2" not in name:
            mine, other = joined
            first, second = torch.arange(mine), torch.arange(value.shape[dimension] - mine) + other
            index[dimension] = torch.cat([first, second]).to(source.device)
        value.copy_(source[tuple(index)])
    return small


def _joined(name: str, network: nn.Module) -> int | None:
    """Channels that come from below in the two joined inputs of the layer that parameter `name` belongs to."""
    found = re.match(r"up_blocks\.(\d+)\.resnets\.(\d+)\.(norm1\.|conv1\.weight|conv_shortcut\.weight)", name)
    if found is None:
        return None
    widths = network.config["block_out_channels"][::-1]
    block, layer = int(found[1]), int(found[2])
    return widths[max(block - 1, 0)] if layer == 0 else widths[block]


def _kept_count(network: nn.Module, depth: float) -> Layers:
    """How many layers stay in each part, as the first so many."""
    if isinstance(network, ResidualMLP):
        return {"blocks": list(range(max(round(len(network.blocks) * depth), 1)))}
    if not hasattr(network, "down_blocks"):
        return {part: list(range(max(round(len(own) * depth), min(len(own), 1))))
                for part, own in stages(network).items()}  # fmt: skip
    layers = network.config["layers_per_block"]
    stay = max(round(layers * depth), 1)
    counts = {"down_blocks": stay, "up_blocks": stay + 1}
    return {f"{part}.{block}.{kind}": list(range(count)) for part, count in counts.items()
            for block in range(len(getattr(network, part))) for kind in ("resnets", "attentions")}  # fmt: skip


@torch.no_grad()
def most_needed(network: nn.Module, depth: float, output: Callable[[], Tensor]) -> Layers:
    """The layers to keep in each part, by number: those whose loss alone changes the network's output most.

    One-shot pruning by an additive criterion (LAPTOP-Diff, arXiv 2404.11098, section 3.2): a layer's score is
    E |F(x) - F without it(x)|^2, and the scores of several are taken to add up, so the layers of least score go. A
    layer of a UNet that changes the number of channels stays: the first of each block, and of an up block the last. So
    does a block of a transformer that is unlike the first, such as SD3's last.

    Args:
        output: calls the network on inputs that it is used for, the same at each call.
    """
    count = _kept_count(network, depth)
    if all(len(network.get_submodule(part)) == len(first) for part, first in count.items() if "attentions" not in part):
        return count
    whole = output()
    for part, first in count.items():
        if part.endswith("attentions"):
            continue
        layers = network.get_submodule(part)
        if len(first) == len(layers):
            continue
        fixed = _fixed(part, layers)
        scores = {k: _score(layer, whole, output) for k, layer in enumerate(layers) if k not in fixed}
        best = sorted(scores, key=scores.get, reverse=True)[: max(len(first) - len(fixed), 0)]
        count[part] = sorted(fixed | set(best))[-len(first) :]
        if part.endswith("resnets"):
            count[part.replace("resnets", "attentions")] = count[part]
    return count


def _fixed(part: str, layers: nn.ModuleList) -> set[int]:
    """The layers of a part that stay."""
    if part.startswith("down_blocks"):
        return {0}
    if part.startswith("up_blocks"):
        return {0, len(layers) - 1}
    shapes = [{name: value.shape for name, value in layer.state_dict().items()} for layer in layers]
    return {k for k, own in enumerate(shapes) if own != shapes[0]}


def _score(layer: nn.Module, whole: Tensor, output: Callable[[], Tensor]) -> float:
    def skip(module: nn.Module, values: Any, named: Any, out: Any) -> Any:
        if "hidden_states" in (taken := arguments(module, values, named)):
            return unchanged_streams(module, values, named, out)
        return next(iter(taken.values()))[:, : out.shape[1]]

    handle = layer.register_forward_hook(skip, with_kwargs=True)
    try:
        return float((output() - whole).square().mean())
    finally:
        handle.remove()
