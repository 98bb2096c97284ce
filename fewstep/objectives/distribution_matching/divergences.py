"""f-divergences D_f = E_student f(r), r = p_data / p_student, by the weight h(r) = r^2 f''(r) of their gradients.

Xu et al., One-step Diffusion Models with f-Divergence Distribution Matching (f-distill), 2502.15681, table 1. Each h is
given up to a constant factor.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Weight:
    """h(r) and what it needs to be differentiated: slope r h'(r) and curvature r^2 h''(r), of the ratio r (N,)."""

    h: Function
    slope: Function
    curvature: Function


def power(p: float) -> Weight:
    """h = r^p."""
    return Weight(lambda r: r**p, lambda r: p * r**p, lambda r: p * (p - 1) * r**p)


WEIGHTS = {
    "reverse_kl": power(0),
    "forward_kl": power(1),
    "hellinger": power(0.5),
    "neyman": power(-1),
    "jeffreys": Weight(lambda r: 1 + r, lambda r: r, torch.zeros_like),
    "jensen_shannon": Weight(
        lambda r: r / (1 + r), lambda r: r / (1 + r) ** 2, lambda r: -2 * r**2 / (1 + r) ** 3
    ),
    "softened_reverse_kl": Weight(
        lambda r: 1 / (1 + r), lambda r: -r / (1 + r) ** 2, lambda r: 2 * r**2 / (1 + r) ** 3
    ),
}  # fmt: skip
