"""Any process in the coordinates of a flow: y = x / (alpha + sigma), u = sigma / (alpha + sigma) in [0, 1].

There y_u = (1 - u) x0 + u z whatever the process, paths are straight, and a velocity dy/du = z - x0 is what a network
reads as `flow_prediction`.
"""

from torch import Tensor

from fewstep.diffusion.made_of_tensors import MadeOfTensors, as_double
from fewstep.diffusion.processes import Process, like

_FLOW_TIMES = MadeOfTensors()


def flow_time(process: Process, t: Tensor) -> Tensor:
    """u = sigma / (alpha + sigma), float64, of native times t (N,)."""
    alpha, sigma = process.alpha(t := as_double(t)), process.sigma(t)
    return _FLOW_TIMES.of(sigma, lambda sigma, alpha: sigma / (alpha + sigma), alpha)


def tangent(process: Process, x: Tensor, t: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
    """(dx/du, dt/du) of the native state and time as y moves with `velocity` = dy/du.

    dt/du = (alpha + sigma)^2 / (alpha sigma' - alpha' sigma) and, from x = (alpha + sigma) y,
    dx/du = (alpha + sigma) dy/du + (alpha' + sigma') dt/du y. x, velocity: (N, ...); t: (N,) float64.
    """
    alpha, sigma = process.alpha(t), process.sigma(t)
    alpha_slope, sigma_slope = process.derivatives(t)
    total = alpha + sigma
    rate = total.square() / (alpha * sigma_slope - alpha_slope * sigma)
    growth = (alpha_slope + sigma_slope) * rate / total
    return like(total, x) * velocity + like(growth, x) * x, rate
