"""Dispersion: inner features of different samples repel each other."""

import torch
from torch import Tensor


def dispersion(features: Tensor, temperature: float) -> Tensor:
    """log mean over i != j of exp(-d_ij / temperature), d_ij the mean square of h_i - h_j: (N, ...) -> scalar, <= 0.

    The contrastive loss without its positive pairs (Wang and He, 2506.09027, eq. 6, with squared distances averaged
    over dimensions). Pairs of a sample with itself are left out, so that the value does not depend on the batch size.
    0 at collapse; its gradient vanishes where everything is far apart.
    """
    flat = features.flatten(1).float()
    norms = flat.square().mean(1)
    distances = (norms[:, None] + norms - 2 * flat @ flat.T / flat.shape[1]).clamp_min(0)
    others = ~torch.eye(len(flat), dtype=torch.bool, device=flat.device)
    return torch.logsumexp(-distances[others] / temperature, 0) - torch.tensor(float(others.sum())).log()
