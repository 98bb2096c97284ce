"""Sampling a denoiser of any process with a diffusers scheduler.

A beta scheduler knows a chain of variance-preserving states. We hand it a chain whose entries are exactly the nodes of
the solver's time grid, translated at equal log-SNR: it steps from node to node without rounding, and every state is
translated back for the network. So one implementation of each solver, diffusers' own, serves every process.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor

from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.guidance import Scales
from fewstep.diffusion.processes import Process
from fewstep.diffusion.solvers import is_stochastic, network_evaluations, scheduler_name, steps_for
from fewstep.util.errors import SettingsError

__all__ = ["Samples", "network_evaluations", "sample", "steps_for"]

_FIRST = -4.0  # log-SNR to which the first evaluation carries the state where the process starts lower; see `_nodes`
_WARP = 1.2
_SETTINGS = {"clip_sample": False, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}


@dataclass(frozen=True)
class Samples:
    """x (N, …): the samples. states (N, S, …): the kept states in the process's own scale, at `times` (S,) float64, its
    own times; None when only the end was kept. evaluations: network evaluations per sample."""

    x: Tensor
    states: Tensor | None
    times: Tensor | None
    evaluations: int


@dataclass(frozen=True)
class _Call:
    """One network call: at node `number` and native `time`, where the native state is `factor` times the chain's
    unit-variance state alpha x0 + sigma ε. `last`: no further call is made at this node."""

    number: int
    time: float
    factor: float
    alpha: float
    sigma: float
    last: bool


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    noise: Tensor,
    *,
    solver: str = "dpmsolver++",
    steps: int = 16,
    condition: Tensor | None = None,
    guidance: Scales = 1.0,
    keep: str | Sequence[int] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    generator: torch.Generator | None = None,
) -> Samples:
    """Solve the probability-flow ODE from N(0, I) `noise` (N, …) to samples.

    Args:
        solver: ddim, dpmsolver++, unipc, heun, euler, ddpm, or a diffusers class known to `fewstep.diffusion.solvers`.
        steps: solver steps, at least 1; `network_evaluations` says what they cost.
        condition: (N,) int64 labels. guidance: s of u + s (c − u), 1 is none; or one for each condition (guidance.py).
        keep: None, "all", or node numbers; node 0 is the start, node k the state after k steps, up to steps − 1.
        on_step: called with (network calls made, network calls in all) after each.
        generator: for a solver that draws noise (ddpm), which is refused without one.
    Raises SettingsError for an unknown solver, a node that does not exist, labels that the network does not know, or
    guidance it cannot follow.
    """
    denoiser.require_condition(condition, len(noise))
    evaluations = network_evaluations(solver, steps, guidance)
    kept = _kept(keep, steps)
    scheduler, calls = _plan(denoiser.process, solver, steps)
    extra = {"generator": generator} if is_stochastic(solver) else {}
    if extra and generator is None:
        raise SettingsError(f"{solver} draws noise at every step; give it a generator or use a deterministic solver")
    states: dict[int, Tensor] = {}
    x, state = denoiser.process.initial(noise), noise
    for made, (call, timestep) in enumerate(zip(calls, scheduler.timesteps, strict=True)):
        if made:
            x = scheduler.scale_model_input(state, timestep) * call.factor
        if call.last and call.number in kept:
            states[call.number] = x
        prediction = denoiser.predict(x, call.time, condition, guidance)
        if made:
            output = prediction.as_type("v_prediction") / call.factor
        else:  # from t_max to the chain's first node with the prediction at hand: the chain's state and its v
            x0, epsilon = prediction.x0, prediction.epsilon
            unit = scheduler.scale_model_input(torch.ones(1), timestep).item()
            state = (call.alpha * x0 + call.sigma * epsilon) / unit
            output = call.alpha * epsilon - call.sigma * x0
        state = scheduler.step(output, timestep, state, **extra).prev_sample
        if on_step is not None:
            on_step(made + 1, len(calls))
    if not kept:
        return Samples(state, None, None, evaluations)
    times = {call.number: call.time for call in calls}
    return Samples(
        state,
        torch.stack([states[number] for number in kept], dim=1),
        torch.tensor([times[number] for number in kept], dtype=torch.float64),
        evaluations,
    )


def _kept(keep: str | Sequence[int] | None, steps: int) -> list[int]:
    if keep is None:
        return []
    if isinstance(keep, str):
        numbers = list(range(steps)) if keep == "all" else [-1]
    else:
        numbers = [int(number) for number in keep]
    if any(not 0 <= number < steps for number in numbers) or len(set(numbers)) != len(numbers):
        raise SettingsError(f"keep must be null, 'all' or different nodes of 0 … {steps - 1}, got {keep!r}")
    return numbers


def _plan(process: Process, solver: str, steps: int) -> tuple[Any, list[_Call]]:
    """A scheduler over the solver's nodes, ready to step, and what to do at each of its timesteps."""
    nodes = _nodes(process, steps)
    kind = getattr(diffusers, scheduler_name(solver))
    product = torch.sigmoid(nodes).flip(0)  # the chain starts at the data
    betas = 1 - product / torch.cat([torch.ones(1, dtype=torch.float64), product[:-1]])
    known = inspect.signature(kind.__init__).parameters
    settings = {name: value for name, value in _SETTINGS.items() if name in known}
    scheduler = kind(num_train_timesteps=steps, trained_betas=betas.tolist(), **settings)
    scheduler.set_timesteps(steps)
    product = scheduler.alphas_cumprod.double()  # in float32, as the solver has it
    snr = torch.log(product) - torch.log1p(-product)
    index = scheduler.timesteps.double()
    low = index.floor().long().clamp(0, steps - 1)
    high = (low + 1).clamp(max=steps - 1)
    snr = torch.lerp(snr[low], snr[high], index - low)
    times = process.time(snr)
    times[0] = process.t_max
    rows = zip(
        index.tolist(),
        times.tolist(),
        process.scale(times).tolist(),
        torch.sigmoid(snr).sqrt().tolist(),
        torch.sigmoid(-snr).sqrt().tolist(),
        [*(index[1:] != index[:-1]).tolist(), True],
        strict=True,
    )
    return scheduler, [_Call(round(steps - 1 - position), *rest) for position, *rest in rows]


def _nodes(process: Process, steps: int) -> Tensor:
    """Log-SNR (steps,) of the nodes, most noise first; the solver's last step goes from the last node to clean data.

    Nodes are spread over the angle φ = atan(σ/α), along which E[x0 | x] and E[ε | x] change most evenly: φ falls from
    the noise end to the data end as (1 − k/steps)^1.2. The same for every process.

    Where the process starts at (almost) pure noise, such as the cosine chain at log-SNR −20 or a flow at −∞, a first
    step measured in log-SNR would dwarf all others and spoil the extrapolation of multistep solvers. There E[x0 | x]
    hardly changes, so the first node moves to where it begins to, and `sample` carries the state over with the
    prediction made at t_max.
    """
    ends = torch.tensor([process.t_max, process.t_min], dtype=torch.float64)
    start, end = torch.atan2(process.sigma(ends), process.alpha(ends))
    part = 1 - torch.arange(steps, dtype=torch.float64) / steps
    snr = -2 * (end + (start - end) * part**_WARP).tan().log()
    limit = _FIRST if steps == 1 else min(_FIRST, float(snr[1]) - 2)
    snr[0] = max(float(process.log_snr(ends[0])), limit)
    return snr
