"""A diffusers scheduler's configuration as process + prediction type + adapter, and back."""

from __future__ import annotations

from typing import Any

import diffusers
import torch

from fewstep.diffusion.adapters import Adapter, Preconditioned, Timestep
from fewstep.diffusion.network_call import CLASSES, NetworkCall
from fewstep.diffusion.prediction import PredictionType
from fewstep.diffusion.processes import EDM, Flow, Process, VariancePreserving
from fewstep.teachers.inspection import TeacherInfo
from fewstep.teachers.scheduler_config import (
    CONSISTENCY_SCHEDULERS,
    COSINE_SCHEDULERS,
    EDM_SCHEDULERS,
    SHIFTED_SCHEDULERS,
)
from fewstep.util.errors import SettingsError, laid_at

_SAME_TIME = 1e-6  # of a factor: a time went through float32


def read_scheduler(
    info: TeacherInfo, call: NetworkCall = CLASSES, factor: float = 1.0, offset: float = 0.0
) -> tuple[Process, PredictionType, Adapter]:
    """What the scheduler of an inspected folder says about the network's training.

    call: how the network is called. factor, offset: the scheduler's timestep times factor plus offset is what the
    pipeline hands on.
    """
    with laid_at(str(info.folder / "scheduler" / "scheduler_config.json")):
        return _read(info, call, factor, offset)


def _read(info: TeacherInfo, call: NetworkCall, factor: float,
          offset: float) -> tuple[Process, PredictionType, Adapter]:
    name = info.scheduler
    if info.process == "flow":
        steps = info.scheduler_config.get("num_train_timesteps", 1000)
        return Flow(), info.prediction_type, Timestep(steps * factor, call, offset)
    stock = _stock(info)
    if name in EDM_SCHEDULERS | COSINE_SCHEDULERS | CONSISTENCY_SCHEDULERS:
        config = stock.config
        if offset or abs(factor - 1.0) > _SAME_TIME:
            raise SettingsError(f"the pipeline gives its denoiser {factor:g} times the scheduler's time plus "
                                f"{offset:g}, and the preconditioning of {name} is known at that time itself")
        process = EDM(config.sigma_min, config.sigma_max, getattr(config, "rho", 7.0))
        if name in CONSISTENCY_SCHEDULERS:
            return process, "sample", Preconditioned("consistency", config.sigma_data, config.sigma_min, call=call)
        sign = 1.0 if config.prediction_type == "epsilon" else -1.0
        variant = "cosine" if name in COSINE_SCHEDULERS else "edm"
        return process, "sample", Preconditioned(variant, config.sigma_data, sign=sign, call=call)
    # of the betas: some schedulers put another number at the end of alphas_cumprod where the SNR there is zero
    table = stock.alphas_cumprod if name in SHIFTED_SCHEDULERS else torch.cumprod(1.0 - stock.betas, dim=0)
    process = VariancePreserving(tuple(table.double().tolist()))
    return process, info.prediction_type, Timestep((process.timesteps - 1) * factor, call, offset)


def _stock(info: TeacherInfo) -> Any:
    """The stock scheduler of the folder. Raises SettingsError for values that diffusers refuses."""
    try:
        return getattr(diffusers, info.scheduler).from_config(info.scheduler_config)
    except (NotImplementedError, ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SettingsError(f"diffusers refuses this configuration of {info.scheduler}: {reason}") from error


def stock_scheduler(process: Process, prediction_type: PredictionType, adapter: Adapter) -> Any:
    """The stock scheduler that stands for a denoiser in a saved pipeline folder.

    Raises SettingsError for a network that no stock scheduler can drive (our own adapter `angle`).
    """
    if isinstance(process, VariancePreserving) and isinstance(adapter, Timestep):
        kind = prediction_type if prediction_type != "flow_prediction" else None
        if kind is not None:
            return diffusers.DDIMScheduler(
                **chain(process), prediction_type=kind, clip_sample=False, timestep_spacing="trailing"
            )
    if isinstance(process, Flow) and isinstance(adapter, Timestep) and prediction_type == "flow_prediction":
        return diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=int(adapter.scale))
    if isinstance(process, EDM) and isinstance(adapter, Preconditioned):
        ends = {"sigma_min": process.sigma_min, "sigma_max": process.sigma_max, "rho": process.rho}
        if adapter.variant == "edm":
            kind = "epsilon" if adapter.sign > 0 else "v_prediction"
            return diffusers.EDMEulerScheduler(**ends, sigma_data=adapter.sigma_data, prediction_type=kind)
        return diffusers.CMStochasticIterativeScheduler(**ends, sigma_data=adapter.sigma_data, clip_denoised=False)
    raise SettingsError(
        f"no stock diffusers scheduler drives a {prediction_type} network in a {process.kind} process "
        f"through the adapter {adapter.kind!r}"
    )


def chain(process: VariancePreserving, timesteps: int | None = None) -> dict[str, Any]:
    """Arguments of a beta scheduler for the first `timesteps` of a chain (all by default), by name where it has one."""
    table = torch.tensor(process.alphas_cumprod[:timesteps], dtype=torch.float64)
    length = len(table)
    for name in ("squaredcos_cap_v2", "linear"):
        named = diffusers.DDIMScheduler(beta_schedule=name, num_train_timesteps=length)
        if torch.equal(named.alphas_cumprod.double().clamp(1e-12, 1 - 1e-9), table):
            return {"beta_schedule": name, "num_train_timesteps": length}
    betas = 1 - table / torch.cat([torch.ones(1, dtype=torch.float64), table[:-1]])
    return {"trained_betas": betas.tolist(), "num_train_timesteps": length}
