"""Inner features of a network: what its blocks put out, as (N, C, *grid), whatever a block returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from fewstep.diffusion.denoiser import Denoiser, Prediction
from fewstep.networks.network_blocks import blocks, image_stream, middle
from fewstep.networks.state_layout import layout_of, tokens_as_grid


class _AllSeen(Exception):
    """Every block that is wanted has been called."""


@contextmanager
def watched(denoiser: Denoiser, modules: list[nn.Module], *, only: bool = False) -> Iterator[list[Tensor]]:
    """Collects the features (N, C, *grid) that blocks of the denoiser's network put out, in their order, of one call
    within the context.

    only: nothing else is wanted of that call: it ends, and with it the context, after the last of these blocks, and
    none behind it is computed. Values and gradients of the features are those of the whole call, bit for bit.
    """
    seen: dict[int, Tensor] = {}
    outputs: list[Tensor] = []

    def keep(number: int) -> Callable[..., None]:
        def hook(block: nn.Module, values: Sequence[Any], named: dict[str, Any], output: Any) -> None:
            seen[number] = image_stream(block, values, named, output)
            if only and len(seen) == len(modules):
                raise _AllSeen  # the one way out of a network of any family, whatever lies between its blocks

        return hook

    handles = [module.register_forward_hook(keep(number), with_kwargs=True) for number, module in enumerate(modules)]
    try:
        yield outputs
    except _AllSeen:
        pass
    finally:
        for handle in handles:
            handle.remove()
    network, layout = denoiser.network, layout_of(denoiser)
    tokens = not hasattr(network, "down_blocks")  # a UNet's blocks have channels first, and a vector's have no places
    outputs.extend(tokens_as_grid(feature, network, layout) if tokens and feature.ndim == 3 else feature
                   for _, feature in sorted(seen.items()))  # fmt: skip


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

    Arguments as of `Denoiser.predict`. Features are (N, C, *grid), or (N, C) of vectors. Raises SettingsError for a
    network without blocks, or whose middle block was taken out.
    """
    inner = middle(denoiser.network)
    with watched(denoiser, blocks(denoiser.network) if every else [inner]) as features:
        prediction = denoiser.predict(x, t, condition, second=second)
    return prediction, features


def features_at(
    denoiser: Denoiser, x: Tensor, t: Tensor | float, condition: Tensor | None = None
) -> list[Tensor]:
    """The output of the network's middle block alone, as of `predict_with_features`; the call ends there."""
    with watched(denoiser, [middle(denoiser.network)], only=True) as features:
        denoiser.predict(x, t, condition)
    return features


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
