"""Schedulers of diffusers that sample a student exactly: chosen before it is trained, so that the levels it is trained
at are those that the scheduler will yield.

Whether one does is not derived but tried: it steps through random outputs beside the student's own formula.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import diffusers
import numpy as np
import torch
from torch import Tensor

from fewstep.diffusion.adapters import DiffusersAdapter, Preconditioned
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.prediction import PredictionType
from fewstep.diffusion.processes import EDM, Flow, Process, VariancePreserving
from fewstep.students.sampling_plan import factors
from fewstep.teachers.schedulers import chain

Kind = Literal["ode", "renoise"]
_TOLERANCE = 1e-4  # of a step; schedulers compute in float32
_START = 1e-5  # of the first state
_NAMED = (
    {"beta_schedule": "linear"},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2"},
)


@dataclass(frozen=True)
class SampledNetwork:
    """What sampling knows of a denoiser and of the pipeline of its family."""

    process: Process
    prediction_type: PredictionType
    adapter: DiffusersAdapter
    time_factor: float
    own_sigmas: bool
    shift: float
    time_offset: float = 0.0

    @staticmethod
    def of(denoiser: Denoiser) -> SampledNetwork:
        """Of a denoiser of a recorded family."""
        family = denoiser.family
        return SampledNetwork(denoiser.process, denoiser.prediction_type, denoiser.adapter, family.time_factor,
                              family.own_sigmas, family.shift, family.time_offset)  # fmt: skip


def scheduler_times(denoiser: Denoiser, kind: Kind, steps: int, start: float | None = None) -> Tensor | None:
    """The native times (steps,) float64, from `start` (None: the end of the process), at which a stock scheduler has
    the pipeline of this denoiser's family evaluate it; None where none samples as a student of this kind does."""
    times = _times(SampledNetwork.of(denoiser), kind, steps, start)
    return None if times is None else torch.tensor(times, dtype=torch.float64)


def stock_scheduler_of(
    denoiser: Denoiser, kind: Kind, times: Tensor, arguments: Container[str] = ()
) -> tuple[Any, dict[str, Any]] | None:
    """The stock scheduler by which the pipeline of this denoiser's family samples a student of these native times, and
    what the pipeline is told of its steps: their number, or one by one; None where there is none.

    arguments: of the pipeline's call, by name.
    """
    network, steps, first = SampledNetwork.of(denoiser), len(times), float(times[0])
    for start in (None, first):
        for scheduler in _candidates(network, kind, steps, start):
            if _is_faithful(scheduler, network, kind, times):
                return scheduler, {"num_inference_steps": steps}
    for scheduler, told in _candidates_at(network, kind, times):
        if set(told) <= set(arguments) and _is_faithful(scheduler, network, kind, times, told):
            return scheduler, told
    return None


@lru_cache(maxsize=64)
def _times(network: SampledNetwork, kind: Kind, steps: int, start: float | None) -> tuple[float, ...] | None:
    for scheduler in _candidates(network, kind, steps, start):
        if _set_steps(scheduler, network, steps):
            times = _native(scheduler, network)
            if _is_faithful(scheduler, network, kind, times):
                return tuple(times.tolist())
    return None


def _candidates(network: SampledNetwork, kind: Kind, steps: int, start: float | None) -> Iterator[Any]:
    process, prediction = network.process, network.prediction_type
    deterministic = kind == "ode" or steps == 1
    if isinstance(process, VariancePreserving) and prediction != "flow_prediction":
        length = process.timesteps if start is None else round(start * (process.timesteps - 1)) + 1
        if steps > length:
            return
        shared = {**_betas(process, length), "prediction_type": prediction}
        if deterministic:
            yield diffusers.DPMSolverMultistepScheduler(**shared, solver_order=1, timestep_spacing="trailing")
            yield diffusers.DDIMScheduler(**shared, clip_sample=False, timestep_spacing="trailing")
        else:  # scaled so, consistency models' boundary condition is felt at timestep 0 alone, which is no node
            yield diffusers.LCMScheduler(
                **shared, original_inference_steps=steps, timestep_scaling=1e9, clip_sample=False
            )
    if isinstance(process, Flow) and start is None and prediction == "flow_prediction":
        last = network.shift / (steps + network.shift - 1)  # of the even levels 1 … 1/N, shifted
        yield diffusers.FlowMatchEulerDiscreteScheduler(
            num_train_timesteps=round(network.adapter.scale / network.time_factor), shift=network.shift,
            shift_terminal=None if network.own_sigmas or steps == 1 else last, stochastic_sampling=not deterministic,
        )  # fmt: skip
    edm = isinstance(network.adapter, Preconditioned) and network.adapter.variant == "edm"
    if isinstance(process, EDM) and edm and start is None and deterministic:
        yield diffusers.EDMDPMSolverMultistepScheduler(
            sigma_min=process.sigma_min, sigma_max=process.sigma_max, rho=process.rho, solver_order=1,
            sigma_data=network.adapter.sigma_data, sigma_schedule="karras",
            prediction_type="epsilon" if network.adapter.sign > 0 else "v_prediction",
        )  # fmt: skip


def _candidates_at(network: SampledNetwork, kind: Kind, times: Tensor) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Schedulers that are told every step."""
    process, prediction = network.process, network.prediction_type
    deterministic = kind == "ode" or len(times) == 1
    if isinstance(process, VariancePreserving) and prediction != "flow_prediction":
        shared = {**_betas(process, process.timesteps), "prediction_type": prediction}
        told = {"timesteps": (times * (process.timesteps - 1)).round().long().tolist()}
        if deterministic:
            yield diffusers.DPMSolverMultistepScheduler(**shared, solver_order=1), told
        else:
            yield diffusers.LCMScheduler(
                **shared, original_inference_steps=process.timesteps, timestep_scaling=1e9, clip_sample=False
            ), told
    if isinstance(process, Flow) and prediction == "flow_prediction":
        yield diffusers.FlowMatchEulerDiscreteScheduler(
            num_train_timesteps=round(network.adapter.scale / network.time_factor),
            stochastic_sampling=not deterministic,
        ), {"sigmas": times.tolist()}


def _betas(process: VariancePreserving, length: int) -> dict[str, Any]:
    """Arguments of a beta scheduler for the first timesteps of a chain, by the name of the chain where it has one."""
    if length == process.timesteps:
        for named in _NAMED:
            scheduler = diffusers.DDIMScheduler(**named, num_train_timesteps=length)
            if VariancePreserving(tuple(scheduler.alphas_cumprod.double().tolist())) == process:
                return {**named, "num_train_timesteps": length}
    return chain(process, length)


def _set_steps(scheduler: Any, network: SampledNetwork, steps: int, told: dict[str, Any] | None = None) -> bool:
    """Tells a scheduler of its steps as the pipeline does, by number or as `told`; False where it refuses them."""
    own = {"sigmas": np.linspace(1.0, 1 / steps, steps)} if network.own_sigmas else {"num_inference_steps": steps}
    own = own if told is None else told
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # of the infinite ratio where a chain ends in pure noise
            scheduler.set_timesteps(**own)
    except (ValueError, AssertionError):
        return False
    return True


def _native(scheduler: Any, network: SampledNetwork) -> Tensor:
    """The process's own times (steps,) float64 at which a scheduler evaluates."""
    process = network.process
    if isinstance(process, VariancePreserving):
        return scheduler.timesteps.double() / (process.timesteps - 1)
    levels = scheduler.sigmas[:-1].double()
    if isinstance(process, Flow):
        return (levels * 1e7).round() / 1e7  # float32 holds no more
    for end in (process.t_min, process.t_max):
        levels = torch.where((levels / end - 1).abs() < 1e-6, end, levels)
    return levels


def _is_faithful(
    scheduler: Any, network: SampledNetwork, kind: Kind, times: Tensor, told: dict[str, Any] | None = None
) -> bool:
    """Whether the scheduler, asked for so many steps or for these, goes through the times as a student does."""
    steps, plan = len(times), factors(network.process, network.prediction_type, network.adapter, times)
    if not _set_steps(scheduler, network, steps, told) or len(scheduler.timesteps) != steps:
        return False
    given = scheduler.timesteps.double() * network.time_factor + network.time_offset
    if not torch.allclose(given, plan["timestep"], rtol=1e-6, atol=1e-6):
        return False
    first = float(network.process.initial(torch.ones(1, dtype=torch.float64), float(times[0])))
    if abs(float(getattr(scheduler, "init_noise_sigma", 1.0)) / first - 1) > _START:
        return False
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    drawn = torch.Generator().manual_seed(0)
    x = first * torch.randn(64, generator=drawn)
    for step, timestep in enumerate(scheduler.timesteps):
        row = {name: float(column[step]) for name, column in plan.items()}
        raw = torch.randn(64, generator=drawn)
        scaled = scheduler.scale_model_input(x, timestep) if hasattr(scheduler, "scale_model_input") else x
        more = {"generator": torch.Generator().manual_seed(step)} if takes_generator else {}
        got = scheduler.step(raw, timestep, x, **more, return_dict=False)[0]
        epsilon = row["e_skip"] * x + row["e_out"] * raw
        if kind == "renoise":
            epsilon = torch.randn(64, generator=torch.Generator().manual_seed(step))
        wanted = row["next_alpha"] * (row["c_skip"] * x + row["c_out"] * raw) + row["next_sigma"] * epsilon
        if not (_near(scaled, row["c_in"] * x) and _near(got, wanted)):
            return False
        x = wanted
    return True


def _near(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors agree to the rounding of a scheduler; a NaN agrees with nothing."""
    return bool((one - other).abs().max() <= _TOLERANCE * max(float(other.abs().max()), 1.0))
