"""Distances between two batches, one value per sample."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def squared(x: Tensor, y: Tensor) -> Tensor:
    """Mean over dimensions of the squared difference: (N, ...), (N, ...) -> (N,)."""
    return (x - y).square().flatten(1).mean(1)


def pseudo_huber(x: Tensor, y: Tensor, huber: float) -> Tensor:
    """sqrt(|x - y|^2 + c^2) - c with c = huber * sqrt(D) (Song and Dhariwal, 2310.14189, eq. 8): -> (N,).

    huber = 0 gives the norm of the difference, with gradient 0 where it vanishes.
    """
    difference = (x - y).flatten(1)
    c = huber * math.sqrt(difference.shape[1])
    norm2 = difference.square().sum(1)
    if c == 0:
        return norm2.clamp_min(1e-24).sqrt()
    return norm2 / ((norm2 + c * c).sqrt() + c)  # the same without cancellation


def high_frequency_error(x: Tensor, y: Tensor, cutoff: float) -> Tensor:
    """Squared difference of what is left of x and y above `cutoff`, mean over dimensions: (N, ...) -> (N,).

    Frequencies of the last dimensions (of (N, D) of the one, of (N, C, H, W) of H and W), as a radius with 1 for the
    highest of an axis. By Parseval's identity the mean square of the filtered difference is that of its spectrum.
    """
    difference = wide(x - y)
    axes = tuple(range(min(2, x.ndim - 1), x.ndim))
    spectrum = torch.fft.fftn(difference, dim=axes, norm="ortho")
    frequencies = [2 * torch.fft.fftfreq(x.shape[axis], device=x.device).abs() for axis in axes]
    radius = sum(grid.square() for grid in torch.meshgrid(*frequencies, indexing="ij")).sqrt()
    return ((spectrum * (radius > cutoff)).abs().square()).flatten(1).mean(1)


def wide(x: Tensor) -> Tensor:
    """x in float32 where it is in half precision, else as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """(N,) -> (N, 1, ...), ready to multiply `like` (N, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def perceptual(x: Tensor, y: Tensor, features: Callable[[Tensor], list[Tensor]]) -> Tensor:
    """Squared distance of unit-length features, summed over layers and averaged over places: (N, ...) -> (N,).

    The form of LPIPS (Zhang et al., 1801.03924, eq. 1) without its learned weights; y's features get no gradient.
    """
    with torch.no_grad():
        wanted = features(y)
    total = x.new_zeros(len(x))
    for mine, theirs in zip(features(x), wanted, strict=True):
        mine, theirs = (torch.nn.functional.normalize(f.float(), dim=1, eps=1e-6) for f in (mine, theirs))
        total = total + (mine - theirs).square().sum(1, keepdim=True).flatten(1).mean(1)
    return total
