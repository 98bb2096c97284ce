"""The stages of our networks, whose outputs two networks of one family can be compared by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from fewstep.diffusion.denoiser import Denoiser, Prediction
from fewstep.util.errors import SettingsError


def stages(network: nn.Module) -> dict[str, list[nn.Module]]:
    """The modules of each part of `network` from its input to its output; a part may be empty.

    A UNet2DModel: its down blocks, middle block and up blocks. A ResidualMLP: its layers and the middle one. Raises
    SettingsError for another network.
    """
    groups = ("down_blocks", "mid_block", "up_blocks") if hasattr(network, "down_blocks") else ("blocks", "mid_block")
    if not hasattr(network, groups[0]):
        raise SettingsError(f"a {type(network).__name__} has no stages that are known")
    found = {name: getattr(network, name, None) for name in groups}
    return {name: list(part) if isinstance(part, nn.ModuleList) else [part] if part is not None else []
            for name, part in found.items()}  # fmt: skip


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


@contextmanager
def watched(modules: list[nn.Module]) -> Iterator[list[Tensor]]:
    """Collects the outputs (N, ...) of `modules`, in their order, of one call of their network within the context."""
    seen: dict[int, Tensor] = {}
    outputs: list[Tensor] = []

    def keep(number: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            seen[number] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [module.register_forward_hook(keep(number)) for number, module in enumerate(modules)]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
        outputs.extend(seen[number] for number in sorted(seen))


def predict_with_features(
    denoiser: Denoiser,
    x: Tensor,
    t: Tensor | float,
    condition: Tensor | None = None,
    *,
    second: Tensor | float | None = None,
    every: bool = False,
) -> tuple[Prediction, list[Tensor]]:
    """A prediction with the output of the network's middle block, or with `every` of each block from first to last.

    Arguments as of `Denoiser.predict`. Features are (N, …) tensors. Raises SettingsError for a network without a middle
    block.
    """
    network = denoiser.network
    if getattr(network, "mid_block", None) is None:
        raise SettingsError(f"{type(network).__name__} has no mid_block to take features from")
    blocks = [block for part in stages(network).values() for block in part] if every else [network.mid_block]
    with watched(blocks) as features:
        prediction = denoiser.predict(x, t, condition, second=second)
    return prediction, features


def last_layer(network: nn.Module) -> nn.Module:
    """The linear or convolution layer that `network` ends in; SettingsError for a network that is not known."""
    for name in ("conv_out", "leave"):
        layer = getattr(network, name, None)
        if layer is not None:
            return getattr(layer, "base_layer", layer)  # under adapters: the layer they adapt
    raise SettingsError(f"a {type(network).__name__} has no last layer that is known")


@contextmanager
def watched_inputs(modules: list[nn.Module]) -> Iterator[list[Tensor]]:
    """Collects the first inputs (N, ...) of `modules`, in the order of their calls within the context."""
    inputs: list[Tensor] = []
    handles = [module.register_forward_pre_hook(lambda _module, given: inputs.append(given[0])) for module in modules]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()
