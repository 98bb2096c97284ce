"""Where the parts of a pipeline lie: on the device what works now, on the CPU the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

TEXT_ENCODERS = "text_encoder"
"""What the names of a pipeline's text encoders begin with."""
AUTOENCODERS = ("vae", "vqvae", "movq", "vqgan")
"""Names of the part that encodes and decodes samples."""
OF_IMAGES = (*AUTOENCODERS, "image_encoder")
"""As of what works beside them where conditions hold images."""


def autoencoder_of(pipe: Any) -> nn.Module | None:
    """The part of a pipeline that decodes its states: by its name, else the one that encodes and decodes; None in a
    pipeline whose states are its samples."""
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    named = [parts[name] for name in AUTOENCODERS if name in parts]
    both = [part for part in parts.values() if hasattr(part, "encode") and hasattr(part, "decode")]
    return next(iter([*named, *both]), None)


def place(pipe: Any, device: torch.device, *kinds: str) -> None:
    """Puts the parts whose names begin with one of `kinds` on the device, the others on the CPU."""
    for name, part in _real_parts(pipe):
        part.to(device if name.startswith(kinds) else "cpu")


def place_for_decoding(pipe: Any, device: torch.device) -> None:
    """Puts all but the text encoders, which a decoding never asks, on the device."""
    for name, part in _real_parts(pipe):
        part.to("cpu" if name.startswith(TEXT_ENCODERS) else device)


def _real_parts(pipe: Any) -> Iterator[tuple[str, nn.Module]]:
    """Those with weights: the denoiser may be on meta."""
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module) and not any(parameter.is_meta for parameter in part.parameters()):
            yield name, part
