"""Further inputs of a network: a second time and a guidance scale, embedded and added to the embedding of the time.

The new embeddings end in zeros, so that the network starts as it was. They stand where the network embeds its labels,
if it adds those to the time's embedding, and else around the module that embeds the time: nothing else of the network
changes, and at fixed inputs they are a constant that folds into the time embedding's bias, which gives back a network
of the original kind. A guidance scale that the network embeds by itself stays its own.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.network_inputs import ExtraInputs, Given, TakesGiven
from fewstep.networks.initial_weights import build
from fewstep.networks.unet_mlp import time_features
from fewstep.util.errors import SettingsError

OCTAVES = 8
SCALE_OCTAVES = 4
TIME_SLOTS = (
    "time_embedding", "time_text_embed.timestep_embedder", "time_embed.emb.timestep_embedder",
    "time_embed.timestep_embedder", "adaln_single.emb.timestep_embedder", "condition_embedder.time_embedder",
    "timestep_proj", "time_guidance_embed.timestep_embedder", "time_caption_embed.timestep_embedder",
)  # fmt: skip
"""Modules of diffusers' networks whose output is the embedding of the time."""


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


class TimeSlot(TakesGiven):
    """The embedding of the time, as it was, and of the further inputs that the network's call hands over."""

    def __init__(self, inner: nn.Module, embedding: InputEmbedding):
        super().__init__()
        self.inner, self.embedding = inner, embedding

    def forward(self, *values: Tensor, **named: Tensor) -> Tensor:
        found = self.inner(*values, **named)
        if self.given is None:
            return found
        added = self.embedding(self.given).to(found.dtype)
        if len(added) != len(found):  # a time for every token
            added = added.repeat_interleave(len(found) // len(added), 0)
        return found + added


@dataclass(frozen=True)
class Place:
    """Where further inputs enter: the attribute `slot` of `owner`, and the last bias (width,) of the embedding of the
    time. labels: the attribute embeds labels, and is given the inputs in their place; else it embeds the time."""

    owner: nn.Module
    slot: str
    bias: Tensor
    labels: bool


def add_inputs(
    denoiser: Denoiser, inputs: ExtraInputs, generator: torch.Generator | None = None
) -> Denoiser:
    """Gives the network of `denoiser` these inputs, in place; what it computes stays the same bit for bit.

    The inner layers of the new embeddings are drawn from `generator` (default: seed 0). A network that has these inputs
    already stays as it is, and one that embeds the guidance scale by itself gets no second embedding of it. Raises
    SettingsError for other ones, or for a network that has no place for them.
    """
    if not inputs or denoiser.inputs == inputs:
        return denoiser
    if denoiser.inputs:
        raise SettingsError(f"the network already has further inputs, {denoiser.inputs}, which are not {inputs}")
    new = replace(inputs, guidance=None) if embeds_scale(denoiser) else inputs
    denoiser.inputs = inputs
    if not new:
        return denoiser
    network = denoiser.network
    free = next(network.parameters()).requires_grad
    generator = generator or torch.Generator().manual_seed(0)
    for place in places(network):
        bias, before = place.bias, getattr(place.owner, place.slot)
        embedding = build(lambda bias=bias: InputEmbedding(None, new, len(bias)), generator).to(bias.device, bias.dtype)
        for projection in (embedding.second, embedding.scale):
            if projection is not None:
                nn.init.zeros_(projection[-1].weight)
                nn.init.zeros_(projection[-1].bias)
        if embedding.negative is not None:
            nn.init.zeros_(embedding.negative.weight)
        embedding.requires_grad_(free)
        if place.labels:
            embedding.labels = before
        slot = embedding if place.labels else TimeSlot(before, embedding)
        setattr(place.owner, place.slot, slot.train(network.training))
    return denoiser


@torch.no_grad()
def fold_inputs(network: nn.Module, given: Given) -> nn.Module:
    """A copy of `network` without its further inputs that computes the same as at these values of them.

    given: one row, without a label: the angle of a second time, a guidance scale, the sign of the time.
    """
    network = copy.deepcopy(network)
    for place in places(network):
        there = getattr(place.owner, place.slot)
        if isinstance(there, TimeSlot):
            before, embedding = there.inner, there.embedding
        elif isinstance(there, InputEmbedding):
            before, embedding = there.labels, there
        else:  # the scale, which the network embeds by itself, is its only further input
            continue
        setattr(place.owner, place.slot, before)
        if place.labels:
            embedding.labels = None
        fixed = [None if value is None else value.to(place.bias.device, place.bias.dtype) for value in given]
        place.bias.add_(embedding(Given(*fixed))[0])
    return network


def embeds_scale(denoiser: Denoiser) -> bool:
    """Whether the network itself takes the guidance scale as an input."""
    call = getattr(denoiser.adapter, "call", None)
    return call is not None and call.guidance is not None


def places(network: nn.Module) -> list[Place]:
    """Where further inputs enter `network`: one place, or one in each block where each embeds the time by itself.

    Raises SettingsError for a network in which none is known.
    """
    network = getattr(network, "guide", network)
    if hasattr(network, "embed_label"):
        return [Place(network, "embed_label", network.embed_time.bias, True)]
    if isinstance(network, UNet2DModel) and network.config["class_embed_type"] is None:
        return [Place(network, "class_embedding", network.time_embedding.linear_2.bias, True)]
    embedded = [module for module in network.modules()
                if hasattr(module, "class_embedder") and hasattr(module, "timestep_embedder")]  # fmt: skip
    if embedded:
        return [Place(module, "class_embedder", module.timestep_embedder.linear_2.bias, True) for module in embedded]
    for path in TIME_SLOTS:
        owner, _, slot = path.rpartition(".")
        try:
            module = network.get_submodule(path)
        except AttributeError:
            continue
        bias = _last_bias(module.inner if isinstance(module, TimeSlot) else module)
        if bias is not None:
            return [Place(network.get_submodule(owner), slot, bias, False)]
    raise SettingsError(f"a {type(network).__name__} of this kind cannot be given a second time or guidance scale")


def _last_bias(embedding: nn.Module) -> Tensor | None:
    last = getattr(embedding, "linear_2", None)
    if last is None:
        last = next((layer for layer in reversed(list(embedding.modules())) if isinstance(layer, nn.Linear)), None)
    return None if last is None else getattr(last, "bias", None)
