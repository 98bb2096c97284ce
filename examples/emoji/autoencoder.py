"""The autoencoder of the emoji teacher: an AutoencoderKL that halves the sides, trained on pictures from the start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import diffusers
import torch
from torch import Tensor

from fewstep.diffusion.randomness import generator
from fewstep.training.digests import tensor_digest
from fewstep.training.saving.checkpoints import Checkpoints
from fewstep.util.config import Strict
from fewstep.util.errors import SettingsError

Progress = Callable[[int, int, dict[str, float]], None]


class AutoencoderSettings(Strict):
    """An autoencoder and how it is trained.

    channels: at each resolution; one more halves the sides once more. latent: channels of a latent. kl: weight of
    KL(q(z | x) || N(0, 1)), the mean over a latent's numbers, beside the mean squared error of pixels in [-1, 1].
    """

    channels: tuple[int, ...] = (16, 32)
    latent: int = 4
    steps: int = 1500
    batch: int = 32
    lr: float = 4e-3
    kl: float = 1e-4
    seed: int = 0


def new_autoencoder(settings: AutoencoderSettings) -> diffusers.AutoencoderKL:
    """One with the random weights of the seed; nothing of the global generator is used up."""
    levels = len(settings.channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return diffusers.AutoencoderKL(
            block_out_channels=settings.channels, in_channels=3, out_channels=3, latent_channels=settings.latent,
            down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
            norm_num_groups=4, layers_per_block=1, mid_block_add_attention=False, sample_size=32,
        )  # fmt: skip


def train_autoencoder(
    settings: AutoencoderSettings, images: Tensor, folder: Path, on_progress: Progress | None = None, every: int = 100
) -> diffusers.AutoencoderKL:
    """Train one on images (N, 3, H, W) in [-1, 1], from the newest checkpoint in `folder`, kept every so many steps.

    L = E |x' - x|^2 + kl KL(q(z | x) || N(0, 1)) (Kingma and Welling, 1312.6114), with z drawn; its `scaling_factor`
    is then one over the latents' standard deviation. What is drawn in a step depends on (seed, step) alone.
    Raises SettingsError for a checkpoint of other settings or images.
    """
    network = new_autoencoder(settings).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.lr, betas=(0.9, 0.99), weight_decay=0.0)
    names = [name for name, _ in network.named_parameters()]
    identity = {"settings": settings.model_dump(mode="json"), "images": tensor_digest({"images": images[:256]}),
                "count": len(images)}  # fmt: skip
    checkpoints, first = Checkpoints(folder), 0
    found = checkpoints.latest()
    if found is not None:
        if found.record["identity"] != identity:
            raise SettingsError(f"{folder}: the checkpoint is of other settings or images",
                                hint="restore them, or remove the folder to begin anew")  # fmt: skip
        first = found.step
        _load(network, optimiser, names, found.tensors)
    for step in range(first, settings.steps):
        draws = generator(settings.seed, "emoji-autoencoder", step)
        x = images[torch.randint(len(images), (settings.batch,), generator=draws)]
        posterior = network.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=draws)
        error = (network.decode(posterior.mean + posterior.std * noise).sample - x).square().mean()
        divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        optimiser.param_groups[0]["lr"] = settings.lr * _rate((step + 1) / (settings.steps + 1))
        (error + settings.kl * divergence).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        if (step + 1) % every == 0 or step + 1 == settings.steps:
            checkpoints.save(step + 1, {"identity": identity}, _state(network, optimiser, names))
            if on_progress is not None:
                figures = {"error": float(error.detach()), "kl": float(divergence.detach())}
                on_progress(step + 1, settings.steps, figures)
    network.eval().requires_grad_(False)
    network.register_to_config(scaling_factor=1 / float(encode(network, images[:2048], scaled=False).std()))
    return network


@torch.no_grad()
def encode(network: diffusers.AutoencoderKL, images: Tensor, scaled: bool = True, batch: int = 128) -> Tensor:
    """Means of the latents (N, latent, H/2, W/2) of images in [-1, 1], times the scaling factor."""
    factor = network.config.scaling_factor if scaled else 1.0
    return torch.cat([network.encode(part).latent_dist.mean for part in images.split(batch)]) * factor


@torch.no_grad()
def decode(network: diffusers.AutoencoderKL, latents: Tensor, batch: int = 128) -> Tensor:
    """Images (N, 3, H, W) in [-1, 1] of scaled latents."""
    parts = (latents / network.config.scaling_factor).split(batch)
    return torch.cat([network.decode(part).sample for part in parts]).clamp(-1, 1)


def peak_to_noise(network: diffusers.AutoencoderKL, images: Tensor) -> float:
    """Peak signal-to-noise ratio, in dB, of images (N, 3, H, W) in [-1, 1] after encoding and decoding."""
    error = (decode(network, encode(network, images)) - images).square().mean()
    return float(10 * torch.log10(4 / error))


def _rate(progress: float) -> float:
    """Share of the learning rate: a short warm-up, then a cosine to zero."""
    return min(progress / 0.03, 1.0) * 0.5 * (1 + float(torch.cos(torch.tensor(progress * torch.pi))))


def _state(network: torch.nn.Module, optimiser: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    tensors = {f"network/{name}": value for name, value in network.state_dict().items()}
    for name, parameter in zip(names, network.parameters(), strict=True):
        for key, value in optimiser.state[parameter].items():
            tensors[f"optimiser/{name}/{key}"] = torch.as_tensor(value)
    return tensors


def _load(
    network: torch.nn.Module, optimiser: torch.optim.Optimizer, names: list[str], tensors: dict[str, Tensor]
) -> None:
    network.load_state_dict({name.partition("/")[2]: value for name, value in tensors.items()
                             if name.startswith("network/")})  # fmt: skip
    for name, parameter in zip(names, network.parameters(), strict=True):
        keys = ("step", "exp_avg", "exp_avg_sq")
        optimiser.state[parameter] = {key: tensors[f"optimiser/{name}/{key}"].clone() for key in keys}
