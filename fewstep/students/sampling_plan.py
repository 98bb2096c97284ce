"""What a student computes at each of its evaluations, as factors: for whoever samples it without this package."""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.diffusion import prediction
from fewstep.diffusion.adapters import DiffusersAdapter
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.prediction import PredictionType
from fewstep.diffusion.processes import Process


def factors(process: Process, kind: PredictionType, adapter: DiffusersAdapter, times: Tensor) -> dict[str, Tensor]:
    """At each of the decreasing native times (steps,) float64: the network is given c_in x and `timestep`; with its raw
    output F, x0 = c_skip x + c_out F and ε = e_skip x + e_out F; the next state is next_alpha x0 + next_sigma ε, which
    after the last time is x0."""
    alpha, sigma = process.alpha(times), process.sigma(times)
    c_in, timestep, skip, out = adapter.coefficients(times)
    one, zero = torch.ones_like(times), torch.zeros_like(times)
    # x0 and ε are linear in (x, F): their factors are the values at (1, 0) and (0, 1)
    return {
        "timestep": timestep,
        "c_in": c_in,
        "c_skip": prediction.to_x0(skip, one, alpha, sigma, kind),
        "c_out": prediction.to_x0(out, zero, alpha, sigma, kind),
        "e_skip": prediction.to_epsilon(skip, one, alpha, sigma, kind),
        "e_out": prediction.to_epsilon(out, zero, alpha, sigma, kind),
        "next_alpha": torch.cat([alpha[1:], one[:1]]),
        "next_sigma": torch.cat([sigma[1:], zero[:1]]),
    }


def plan_rows(denoiser: Denoiser, times: Tensor) -> list[dict[str, float]]:
    """The same, evaluation by evaluation, ready for JSON."""
    columns = factors(denoiser.process, denoiser.prediction_type, denoiser.adapter, times)
    return [{name: float(column[step]) for name, column in columns.items()} for step in range(len(times))]
