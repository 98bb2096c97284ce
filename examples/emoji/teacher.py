"""The emoji teacher: a stock StableDiffusionPipeline whose UNet is trained by fewstep's own denoising term."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from examples.emoji.text_encoder import load_encoder
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.randomness import derive
from fewstep.families.recorded_conditions import table_of
from fewstep.recipes import Recipe, parse_recipe
from fewstep.teachers.inspection import inspect_teacher
from fewstep.teachers.loading import load_teacher
from fewstep.teachers.pipeline_loading import load_pipeline
from fewstep.training.run_options import RunOptions
from fewstep.training.step.batches import TensorData
from fewstep.training.teacher_training import train_further
from fewstep.util.config import Strict

Progress = Callable[[int, int, dict[str, float]], None]


class TeacherSettings(Strict):
    """A text-conditioned UNet and how it is trained.

    channels: at each resolution; text is attended to at the lowest, and pooled text goes in everywhere with the time.
    images: training samples. ema: decay per step of the average of the weights. dropout: share of samples that go
    without their caption, which guidance needs.
    """

    channels: tuple[int, ...] = (32, 64, 128)
    layers: int = 1
    images: int = 224_000
    batch: int = 32
    lr: float = 2e-3
    ema: float = 0.995
    dropout: float = 0.1
    seed: int = 0

    @property
    def recipe(self) -> Recipe:
        """Denoising score matching in the form that the training loop takes."""
        return parse_recipe({
            "name": "emoji-teacher",
            "student": {"init": "random"},
            "optimiser": {"lr": self.lr, "weight_decay": 0.01},
            "training": {"batch": self.batch, "ema": self.ema},
            "rounds": [{"terms": [{"term": "denoising", "class_dropout": self.dropout}]}],
        }, "emoji-teacher")  # fmt: skip


def new_unet(settings: TeacherSettings, latent: tuple[int, int, int], width: int) -> diffusers.UNet2DConditionModel:
    """One with the random weights of the seed, for latents (C, H, W) and text of `width` numbers a token."""
    levels = len(settings.channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(settings.seed, "emoji-unet"))
        return diffusers.UNet2DConditionModel(
            sample_size=latent[1], in_channels=latent[0], out_channels=latent[0],
            block_out_channels=settings.channels, layers_per_block=settings.layers,
            down_block_types=("DownBlock2D",) * (levels - 1) + ("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * (levels - 1),
            cross_attention_dim=width, norm_num_groups=16, attention_head_dim=4,
            addition_embed_type="text", addition_embed_type_num_heads=8, resnet_time_scale_shift="scale_shift",
        )  # fmt: skip


def new_pipeline(
    settings: TeacherSettings, autoencoder: diffusers.AutoencoderKL, encoder: Path, size: int
) -> diffusers.StableDiffusionPipeline:
    """A stock pipeline around a UNet with random weights: cosine schedule, v-prediction."""
    tokenizer, text_encoder = load_encoder(encoder)
    side = size // 2 ** (len(autoencoder.config.block_out_channels) - 1)
    latent = (autoencoder.config.latent_channels, side, side)
    scheduler = diffusers.DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction",
                                        clip_sample=False, timestep_spacing="trailing", steps_offset=1)  # fmt: skip
    return diffusers.StableDiffusionPipeline(
        vae=autoencoder, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler,
        unet=new_unet(settings, latent, text_encoder.config.hidden_size),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def teacher_of(folder: Path, captions: list[str]) -> Denoiser:
    """The teacher in a pipeline folder, whose condition k is caption k; the last row is the null one, no caption."""
    denoiser, pipe = load_teacher(folder), load_pipeline(inspect_teacher(folder))
    return denoiser.take(table_of(pipe, denoiser.family, captions))


def train_teacher(
    settings: TeacherSettings,
    folder: Path,
    latents: Tensor,
    rows: Tensor,
    captions: list[str],
    *,
    checkpoints: Path,
    on_progress: Progress | None = None,
    **options: Any,
) -> None:
    """Train the UNet of the pipeline in `folder` on scaled latents (N, C, H, W) whose caption is `captions[rows[k]]`,
    from the newest checkpoint, and put the averaged weights in its place.

    It is trained as the teacher stage trains a given one. options: further ones of `RunOptions`.
    """
    run = RunOptions(settings.images, derive(settings.seed, "emoji-teacher"), checkpoints, **options)
    data = TensorData(latents, rows)
    save_unet(train_further(settings.recipe, teacher_of(folder, captions), data, run, on_progress), folder)


def save_unet(denoiser: Denoiser, folder: Path) -> None:
    """Put a denoiser's network in the place of the pipeline's in `folder`."""
    making = folder / ".unet.new"
    shutil.rmtree(making, ignore_errors=True)
    denoiser.network.save_pretrained(making, safe_serialization=True)
    shutil.rmtree(folder / "unet")
    making.rename(folder / "unet")
