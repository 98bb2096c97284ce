"""Dispersion: inner features of different samples repel each other."""

import math

import torch
from torch import Tensor


def dispersion(features: Tensor, temperature: float) -> Tensor:
    """log mean over i, j of exp(-d_ij / temperature), d_ij the mean square of h_i - h_j: (N, ...) -> scalar.

    The contrastive loss without its positive pairs (Wang and He, 2506.09027, eq. 6, with squared distances averaged
    over dimensions). 0 at collapse; pairs of a sample with itself, which are among the mean, bound it below by -log N,
    where its gradient vanishes: without them it pays for ever to let the features grow.

    DM1 (2510.07865), derived from its abstract (dispersive losses on several layers beside MeanFlow's against collapse
    of the representation): the mean of this over the blocks' features, one of them drawn in each step (`MeanVelocity`).
    """
    flat = features.flatten(1).float()
    norms = flat.square().mean(1)
    distances = (norms[:, None] + norms - 2 * flat @ flat.T / flat.shape[1]).clamp_min(0).fill_diagonal_(0)
    return torch.logsumexp(-distances / temperature, (0, 1)) - 2 * math.log(len(flat))
