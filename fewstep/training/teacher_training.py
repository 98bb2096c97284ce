"""Training a teacher on data by denoising score matching, in the students' loop: a small UNet anew, or a given one
further."""

import dataclasses
from collections.abc import Callable
from typing import Any

from fewstep.data.images import ImageSet
from fewstep.data.sized import Sized
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.label_groups import require_groups
from fewstep.diffusion.processes import VariancePreserving
from fewstep.diffusion.randomness import derive, generator
from fewstep.networks.unet_mlp import new_unet
from fewstep.recipes import Recipe, parse_recipe
from fewstep.training.round_trainer import RoundTrainer
from fewstep.training.run_options import RunOptions
from fewstep.training.step.batches import DataSource, Sources
from fewstep.training.step.size_cycle import size_cycle

Progress = Callable[[int, int, dict[str, float]], None]


def teacher_recipe(lr: float, images: int, batch: int, parts: int, ema: float, class_dropout: float,
                   **training: Any) -> Recipe:  # fmt: skip
    """Denoising score matching in the form that the training loop takes.

    Args:
        lr: learning rate.
        images: length of the training, in samples.
        batch: samples a step. parts: of a batch, which processes may share.
        ema: half-life of the average of the weights, as a share of `images`; 0: no average.
        class_dropout: share of samples that go without their class or text.
        training: further `TrainingSettings`.
    """
    return parse_recipe(
        {
            "name": "teacher",
            "student": {"init": "random"},
            "optimiser": {"lr": lr, "weight_decay": 0.01},
            "training": {"batch": batch, "parts": parts, "ema": 0.5 ** (batch / (ema * images)) if ema else 0.0,
                         **training},
            "rounds": [{"terms": [{"term": "denoising", "class_dropout": class_dropout}]}],
        },
        "teacher",
    )


def train_teacher(
    recipe: Recipe,
    data: ImageSet,
    options: RunOptions,
    *,
    channels: tuple[int, ...],
    layers: int,
    groups: tuple[tuple[int, ...], ...],
    on_progress: Progress | None = None,
) -> Denoiser:
    """Train a UNet on images, from its newest checkpoint; a training that was finished is read from its last one.

    Args:
        recipe: of `teacher_recipe`.
        data: training images (C, H, W) with their labels.
        options: length, seed, folder of the checkpoints, device.
        channels, layers: of the UNet, by resolution.
        groups: groups of classes whose labels the network learns too.
        on_progress: called with images done, images in all, and figures.

    Returns:
        The teacher (cosine schedule, v-prediction) with averaged weights, on the CPU.

    Raises:
        SettingsError: groups that do not fit the classes. NonFinite: a loss or gradient that is NaN or infinite.
    """
    classes = data.num_classes
    groups = require_groups(groups, classes, classes or None)
    network = new_unet(data.shape[-1], data.shape[0], classes, channels, layers,
                       generator=generator(options.seed, "teacher-init"), groups=len(groups))  # fmt: skip
    teacher = Denoiser(network, VariancePreserving.cosine(), "v_prediction", data.shape, classes, classes or None,
                       groups=groups)  # fmt: skip
    options = dataclasses.replace(options, seed=derive(options.seed, "teacher"))
    return train_further(recipe, teacher, data, options, on_progress)


def train_further(recipe: Recipe, teacher: Denoiser, data: DataSource | Sized, options: RunOptions,
                  on_progress: Progress | None = None) -> Denoiser:  # fmt: skip
    """Train a denoiser on data, from its newest checkpoint; a training that was finished is read from its last one.

    Args:
        recipe: of `teacher_recipe`.
        teacher: with its conditions; its weights change.
        data: samples with the rows of their conditions, of several sizes or of one.
        options: length, seed, folder of the checkpoints, device.
        on_progress: called with images done, images in all, and figures.

    Returns:
        The teacher with averaged weights, frozen, on the CPU.

    Raises:
        NonFinite: a loss or gradient that is NaN or infinite.
    """
    options = dataclasses.replace(options, images=recipe.images_of(0, options.images))
    networks = {"student": teacher.requires_grad_(True)}
    sources = Sources(data=data, sizes=size_cycle(teacher, 1, data))
    trainer = RoundTrainer(recipe, 0, networks, [teacher.process.t_max], sources, options)
    return trainer.run(on_progress).to("cpu").requires_grad_(False)
