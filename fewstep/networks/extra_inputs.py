"""Further inputs of a network: a second time and a guidance scale, embedded and added to the embedding of the time.

The new embeddings end in zeros, so that the network starts as it was. They stand where the network embeds its labels,
which both our networks add to the time's embedding: nothing else of the network changes, and at fixed inputs they are
a constant that folds into the time embedding's bias, which gives back a network of the original kind.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.network_inputs import ExtraInputs, Given
from fewstep.networks.unet_mlp import build, time_features
from fewstep.util.errors import SettingsError

OCTAVES = 8
SCALE_OCTAVES = 4


class InputEmbedding(nn.Module):
    """Given -> (N, width): the embedding of the labels, as it was, and of the further inputs.

    The second time s enters as its angle atan(sigma / alpha), the same for every process, as ResidualMLP embeds its
    time; the scale as an angle in [0, pi / 2] over its range. Differentiable, forwards too, in both. The sign of the
    time is a vector that is added where it is negative.
    """

    def __init__(self, labels: nn.Module | None, inputs: ExtraInputs, width: int):
        super().__init__()
        self.labels, self.inputs = labels, inputs
        self.second = _projection(2 * OCTAVES + 2, width) if inputs.second_time else None
        self.scale = _projection(2 * SCALE_OCTAVES + 2, width) if inputs.guidance else None
        self.negative = nn.Linear(1, width, bias=False) if inputs.negative else None

    def forward(self, given: Given) -> Tensor:
        parts = [] if self.labels is None or given.labels is None else [self.labels(given.labels)]
        if self.second is not None:
            parts.append(self._embed(self.second, given.angle, OCTAVES))
        if self.scale is not None:
            scales = self.inputs.guidance
            angle = (given.scale - scales.low) / (scales.high - scales.low) * (math.pi / 2)
            parts.append(self._embed(self.scale, angle, SCALE_OCTAVES))
        if self.negative is not None:
            parts.append(self.negative(given.negative[:, None].to(self.negative.weight.dtype)))
        return sum(parts[1:], parts[0])

    @staticmethod
    def _embed(projection: nn.Sequential, angle: Tensor, octaves: int) -> Tensor:
        return projection(time_features(angle, octaves).to(projection[0].weight.dtype))


def _projection(features: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))


def add_inputs(
    denoiser: Denoiser, inputs: ExtraInputs, generator: torch.Generator | None = None
) -> Denoiser:
    """Gives the network of `denoiser` these inputs, in place; what it computes stays the same bit for bit.

    The inner layers of the new embeddings are drawn from `generator` (default: seed 0). A network that has these inputs
    already stays as it is. Raises SettingsError for other ones, or for a network that has no place for them.
    """
    if not inputs or denoiser.inputs == inputs:
        return denoiser
    if denoiser.inputs:
        raise SettingsError(f"the network already has further inputs, {denoiser.inputs}, which are not {inputs}")
    network = denoiser.network
    place, slot, bias = _places(network)
    first = next(network.parameters())
    embedding = build(lambda: InputEmbedding(None, inputs, len(bias)), generator).to(first.device, first.dtype)
    for projection in (embedding.second, embedding.scale):
        if projection is not None:
            nn.init.zeros_(projection[-1].weight)
            nn.init.zeros_(projection[-1].bias)
    if embedding.negative is not None:
        nn.init.zeros_(embedding.negative.weight)
    embedding.labels = getattr(place, slot)
    setattr(place, slot, embedding.requires_grad_(first.requires_grad).train(network.training))
    denoiser.inputs = inputs
    return denoiser


@torch.no_grad()
def fold_inputs(network: nn.Module, given: Given) -> nn.Module:
    """A copy of `network` without its further inputs that computes the same as at these values of them.

    given: one row, without a label: the angle of a second time, a guidance scale, the sign of the time.
    """
    network = copy.deepcopy(network)
    place, slot, bias = _places(network)
    embedding = getattr(place, slot)
    setattr(place, slot, embedding.labels)
    embedding.labels = None
    fixed = [None if value is None else value.to(bias.device, bias.dtype) for value in given]
    bias.add_(embedding(Given(*fixed))[0])
    return network


def _places(network: nn.Module) -> tuple[nn.Module, str, Tensor]:
    """Whose embedding of labels takes further inputs, under which name, and the last bias (width,) of its embedding of
    the time."""
    place = getattr(network, "guide", network)
    if hasattr(place, "embed_label"):
        return place, "embed_label", place.embed_time.bias
    second = getattr(getattr(place, "time_embedding", None), "linear_2", None)
    if second is None or getattr(place.config, "class_embed_type", None) is not None:
        raise SettingsError(f"a {type(place).__name__} of this kind cannot be given a second time or guidance scale")
    return place, "class_embedding", second.bias
