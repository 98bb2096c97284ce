"""Samples, or states on the way to them, taken to a higher noise level."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.diffusion.made_of_tensors import as_double
from fewstep.diffusion.processes import Process, like
from fewstep.util.device import sent


@dataclass(frozen=True)
class Noised:
    """Samples or states at a higher noise level, with what a denoiser would have to say of them.

    x: (N, ...) at native times t (N,). x0, noise: the pair whose conditional expectations given (x, t) are the exact
    denoiser's; for noised samples the samples and their noise. weight: (N,), by which an error against that pair has
    the variance of ordinary noise.
    """

    x: Tensor
    t: Tensor
    x0: Tensor
    noise: Tensor
    weight: Tensor


def raise_level(process: Process, x: Tensor, s: float, noise: Tensor, t: Tensor) -> Noised:
    """States x (N, ...) at native time s, noised on to t >= s by `noise` n ~ N(0, I).

    x_t = a x_s + b n with a = alpha_t / alpha_s, b^2 = sigma_t^2 - a^2 sigma_s^2. The score of q(x_t | x_s) is -n / b,
    so the pair (x0, noise) that stands for it has noise = sigma_t n / b and, by x_t = alpha_t x0 + sigma_t noise,
    x0 = x_s / alpha_s - a sigma_s^2 / (alpha_s b) n. Regression on it is score matching without access to clean
    samples, unbiased within the interval above s (Phased DMD, 2510.27684, in flow time: METHODS.md, d.3); its
    variance grows like 1 / b^2, which weight = b^2 / sigma_t^2 takes back.
    """
    start = torch.tensor(s, dtype=torch.float64)
    alpha_s, sigma_s = (sent(factor, x.device) for factor in (process.alpha(start), process.sigma(start)))
    there = as_double(t)
    alpha, sigma = process.alpha(there), process.sigma(there)
    a = alpha / alpha_s
    b = (sigma.square() - (a * sigma_s).square()).clamp_min(1e-8 * sigma.square()).sqrt()
    x0 = x / like(alpha_s, x) - like(a * sigma_s.square() / (alpha_s * b), x) * noise
    x_t = like(a, x) * x + like(b, x) * noise
    return Noised(x_t, t, x0, like(sigma / b, x) * noise, (b / sigma).square().float())
