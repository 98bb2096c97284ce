"""EM distillation: a short Langevin chain moves the student's own draws towards the teacher's before it learns."""

from collections.abc import Callable

import torch
from torch import Tensor

from fewstep.diffusion.processes import like
from fewstep.objectives.distribution_matching.settings import Correction

Score = Callable[[Tensor, Tensor], Tensor]
Generate = Callable[[Tensor], Tensor]


def corrected(
    generate: Generate,
    difference: Score,
    latent: Tensor,
    noise: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    draws: Callable[[str], Tensor],
    chain: Correction,
) -> tuple[Tensor, Tensor]:
    """(latent, drift) after a Langevin chain on (latent z, noise e) of x_t = alpha G(z) + sigma e.

    EM distillation, Xie et al., 2405.16852. The chain's stationary density is q_t(x_t) p(z | x_t), q_t the teacher's
    and p(z | x_t) the student's posterior of its latent: in (z, e) it is N(z) N(e) q_t(x_t) / p_t(x_t), so with the
    difference D = grad log q_t - grad log p_t the chain is
        e <- e + c (sigma D - e) + sqrt(2 c) n,      z <- z + k (J^T alpha D - z) + sqrt(2 k) n', J = dG/dz.
    At (z, x_t) the maximum-likelihood gradient is that of |x_t - alpha G(z)|^2 / 2 sigma^2, and x_t - alpha G(z) is
    sigma times the noise. `drift` is the part of that noise which D brought, per unit of c: what the chain began with
    and added as fresh noise has mean zero and is left out (noise cancellation). After one step drift = sigma D, the
    direction of distribution matching; where the densities agree it vanishes.

    generate: z (N, ...) -> G(z), differentiable. difference: (G(z), x_t) -> D. alpha, sigma: (N,).
    draws: name -> N(0, I) of noise's shape. chain: its steps and their sizes c and k.
    """
    noise_size, latent_size = chain.noise_size, chain.latent_size
    drift, total = torch.zeros_like(noise), 0.0
    alpha, sigma = like(alpha, noise), like(sigma, noise)
    for k in range(chain.steps):
        with torch.enable_grad():
            z = latent.detach().requires_grad_()
            x = generate(z)
        pull = difference(x.detach(), (alpha * x + sigma * noise).detach())
        (through,) = torch.autograd.grad(x, z, alpha * pull)
        drift = (1 - noise_size) * drift + noise_size * sigma * pull
        total = (1 - noise_size) * total + noise_size
        noise = noise + noise_size * (sigma * pull - noise) + (2 * noise_size) ** 0.5 * draws(f"chain/noise/{k}")
        latent = latent + latent_size * (through - latent) + (2 * latent_size) ** 0.5 * draws(f"chain/latent/{k}")
    return latent.detach(), drift / total
