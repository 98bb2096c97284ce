"""Untrained networks: the start of students with fresh weights, and the stand-in for a teacher that is missing.

Vectors get a residual MLP, images the UNet that the teacher stage trains; both are told v.
"""

from collections.abc import Sequence

import torch

from fewstep.diffusion.adapters import Angle
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.label_groups import Groups
from fewstep.diffusion.processes import Process, VariancePreserving
from fewstep.diffusion.randomness import generator
from fewstep.networks.initial_weights import build
from fewstep.networks.unet_mlp import ResidualMLP, new_unet
from fewstep.util.errors import SettingsError

CHANNELS = (32, 32)
"""Of the UNet: what the teacher stage takes unless told otherwise."""


def untrained(sample_shape: Sequence[int], num_classes: int, seed: int) -> Denoiser:
    """A denoiser with weights drawn from `seed`, in the cosine variance-preserving process.

    Args:
        sample_shape: (D,) for vectors, (C, S, S) for images.
        num_classes: 0 for an unconditional network; otherwise there is a null class too, `num_classes`.

    Raises SettingsError for samples of another shape, or images that the UNet cannot halve.
    """
    shape, process, weights = tuple(sample_shape), VariancePreserving.cosine(), generator(seed, "untrained")
    if len(shape) == 1:
        return residual_mlp(shape, num_classes, process, weights)
    if len(shape) != 3 or shape[1] != shape[2]:
        raise SettingsError(
            f"no network is known for samples of shape {shape}: vectors are (D,), images (C, S, S)",
            hint="reshape the data, or give a teacher, whose network the student then has",
        )
    network = new_unet(shape[-1], shape[0], num_classes, CHANNELS, generator=weights)
    return Denoiser(network, process, "v_prediction", shape, num_classes, num_classes or None)


def residual_mlp(
    sample_shape: Sequence[int],
    num_classes: int,
    process: Process,
    weights: torch.Generator,
    groups: Groups = (),
) -> Denoiser:
    """A residual MLP for samples of this shape, with a null class if there are classes; `weights` draws them."""
    labels = num_classes + 1 + len(groups) if num_classes else 0
    network = build(lambda: ResidualMLP(sample_shape, labels), weights)
    return Denoiser(network, process, "v_prediction", sample_shape, num_classes, num_classes or None, Angle(), groups)


def fresh_network(teacher: Denoiser, seed: int) -> Denoiser:
    """A residual MLP of a closed-form teacher's shape, process and labels, its weights drawn from `seed`."""
    weights = generator(seed, "surrogate")
    return residual_mlp(teacher.sample_shape, teacher.num_classes, teacher.process, weights, teacher.groups)
