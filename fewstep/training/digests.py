"""Digests and comparisons by which a checkpoint knows what it belongs to."""

import hashlib
from typing import Any

import torch
from torch import Tensor

from fewstep.diffusion.denoiser import Denoiser


def tensor_digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes, types and bytes, in order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def beside_digest(denoiser: Denoiser) -> dict[str, str]:
    """SHA-256 of the network that rests beside the denoiser's own, as `beside`; nothing where there is none."""
    return {} if denoiser.beside is None else {"beside": tensor_digest(denoiser.beside.state_dict())}


def differences(before: Any, now: Any, path: str = "") -> list[str]:
    """Where two nested values differ, in words: "training.batch was 128, is 64"."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        return [d for k in keys for d in differences(before.get(k), now.get(k), f"{path}.{k}".lstrip("."))]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [d for i, (a, b) in enumerate(zip(before, now, strict=True)) for d in differences(a, b, f"{path}.{i}")]
    return [] if before == now else [f"{path or 'it'} was {before}, is {now}"]
