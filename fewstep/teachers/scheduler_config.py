"""What a scheduler's configuration says of the network's training, and whether all of it is understood. No torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from fewstep.util.errors import SettingsError


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# beta schedulers whose config tells the chain a network was trained on
BETA_SCHEDULERS = frozenset(
    f"{name}Scheduler"
    for name in (
        *("DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "DEISMultistep", "DPMSolverMultistep"),
        *("DPMSolverSinglestep", "EulerAncestralDiscrete", "EulerDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete"),
        *("KDPM2Discrete", "LCM", "LMSDiscrete", "PNDM", "TCD", "UniPCMultistep"),
    )
)
# beta schedulers that move their chain's log-SNR (snr_shift_scale)
SHIFTED_SCHEDULERS = frozenset({"CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"})
FLOW_SCHEDULERS = frozenset(
    f"FlowMatch{name}Scheduler" for name in ("EulerDiscrete", "HeunDiscrete", "LCM")
)
EDM_SCHEDULERS = frozenset({"EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"})
# EDM's with the time input 2 atan(sigma) / pi
COSINE_SCHEDULERS = frozenset({"CosineDPMSolverMultistepScheduler"})
CONSISTENCY_SCHEDULERS = frozenset({"CMStochasticIterativeScheduler"})
# of these, the ones that rescale their chain to zero terminal SNR when told so
ZERO_SNR_SCHEDULERS = frozenset(
    f"{name}Scheduler"
    for name in (
        *("DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "DPMSolverMultistep", "EulerAncestralDiscrete"),
        *("EulerDiscrete", "LCM", "TCD", "UniPCMultistep"),
    )
) | SHIFTED_SCHEDULERS
KNOWN_SCHEDULERS = (
    BETA_SCHEDULERS | SHIFTED_SCHEDULERS | FLOW_SCHEDULERS | EDM_SCHEDULERS | COSINE_SCHEDULERS | CONSISTENCY_SCHEDULERS
)
# what a network was trained on: read, by read_scheduler or here
_MEANING = _words(
    """beta_end beta_schedule beta_start invert_sigmas num_train_timesteps predict_epsilon prediction_type
    rescale_betas_zero_snr snr_shift_scale sigma_data sigma_max sigma_min timestep_type trained_betas use_flow_sigmas"""
)
# how a stock pipeline samples: means nothing for the network, which is sampled here by solvers of our own
_SAMPLING = _words(
    """algorithm_type base_image_seq_len base_shift clip_denoised clip_sample clip_sample_range disable_corrector
    dynamic_thresholding_ratio euler_at_final final_sigmas_type flow_shift interpolation_type lambda_min_clipped
    lower_order_final max_image_seq_len max_shift original_inference_steps predict_x0 rho s_noise sample_max_value
    set_alpha_to_one shift shift_terminal sigma_schedule skip_prk_steps solver_order solver_p solver_type steps_offset
    stochastic_sampling tensor_format thresholding time_shift_type timestep_scaling timestep_spacing timestep_values
    use_beta_sigmas use_dynamic_shifting use_exponential_sigmas use_karras_sigmas use_lu_lambdas variance_type
    scale_factors upscale_mode"""
)
_PREDICTIONS = ("epsilon", "sample", "v_prediction", "flow_prediction")


def process_and_prediction(folder: Path, name: str, config: dict[str, Any], described: bool) -> tuple[str, str]:
    """Kind of process and prediction type; `described`: fewstep.json says them, so that only the name counts."""
    path = folder / "scheduler" / "scheduler_config.json"
    known = KNOWN_SCHEDULERS
    if name not in known:
        raise SettingsError(f"{path}: scheduler {name} is not supported; known: {', '.join(sorted(known))}")
    if not described:
        _check_keys(path, name, config)
    prediction = str(config.get("prediction_type", "epsilon"))
    if name in FLOW_SCHEDULERS:
        return "flow", "flow_prediction"
    if name in EDM_SCHEDULERS | COSINE_SCHEDULERS | CONSISTENCY_SCHEDULERS:
        return "edm", "sample"
    if prediction not in _PREDICTIONS:
        raise SettingsError(f"{path}: prediction_type {prediction!r} is unknown; known: {', '.join(_PREDICTIONS)}")
    return "flow" if config.get("use_flow_sigmas") else "variance_preserving", prediction


def _check_keys(path: Path, name: str, config: dict[str, Any]) -> None:
    """Raises SettingsError for what the configuration says of the network's training and is not understood here."""

    def refuse(key: str, why: str) -> None:
        raise SettingsError(f"{path}: {key} {config.get(key)!r} of {name} is not supported: {why}")

    for key, value in config.items():
        if not key.startswith("_") and value is not None and key not in _MEANING | _SAMPLING:
            refuse(key, "the key is unknown, and what it says of the network's training would be lost")
    prediction = config.get("prediction_type", "epsilon")
    if config.get("timestep_type", "discrete") != "discrete":
        refuse("timestep_type", "a beta scheduler's network is given the timesteps 0 to N - 1 here")
    if config.get("invert_sigmas"):
        refuse("invert_sigmas", "time runs from noise at t = 1 to data at t = 0 here")
    if config.get("predict_epsilon") is False and prediction != "sample":
        refuse("predict_epsilon", "write prediction_type 'sample' in its place")
    _check_numbers(path, name, config)
    if name in EDM_SCHEDULERS | COSINE_SCHEDULERS and prediction not in ("epsilon", "v_prediction"):
        refuse("prediction_type", "EDM's preconditioning is known for 'epsilon' and 'v_prediction'")
    if name not in BETA_SCHEDULERS | SHIFTED_SCHEDULERS:
        return
    if config.get("use_flow_sigmas"):
        if prediction == "v_prediction":
            refuse("prediction_type", "with use_flow_sigmas no v is defined; 'flow_prediction' is meant")
        return
    if prediction == "flow_prediction":
        refuse("prediction_type", "it needs use_flow_sigmas; a chain of betas has no flow")
    zero_snr = bool(config.get("rescale_betas_zero_snr"))
    if zero_snr and name not in ZERO_SNR_SCHEDULERS:
        refuse("rescale_betas_zero_snr", f"this scheduler ignores it; known: {', '.join(sorted(ZERO_SNR_SCHEDULERS))}")
    ends = config.get("beta_schedule", "linear") in ("linear", "scaled_linear")
    betas = config.get("trained_betas") or [config.get("beta_end", 0.0) if ends else 0.0]
    if prediction == "epsilon" and (zero_snr or max(betas) > 1 - 2**-25):  # 1 as a float32
        key = "rescale_betas_zero_snr" if zero_snr else "trained_betas" if config.get("trained_betas") else "beta_end"
        refuse(key, "at zero terminal SNR the noise says nothing about the image; such a network predicts v or sample")


def _check_numbers(path: Path, name: str, config: dict[str, Any]) -> None:
    """Raises SettingsError for a number of the chain that is none, or out of its range."""

    def number(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

    chain = name in BETA_SCHEDULERS | SHIFTED_SCHEDULERS
    for key in ("beta_start", "beta_end"):
        if chain and key in config and not (number(config[key]) and 0 <= config[key] <= 1):
            raise SettingsError(f"{path}: {key} {config[key]!r} is no number from 0 to 1")
    levels = name in EDM_SCHEDULERS | COSINE_SCHEDULERS | CONSISTENCY_SCHEDULERS
    for key in ("sigma_min", "sigma_max", "sigma_data", "rho"):
        value = config.get(key)
        if (value is not None or levels and key in config) and not (number(value) and value > 0):
            raise SettingsError(f"{path}: {key} {value!r} is no positive number")
    count = config.get("num_train_timesteps", 1000)
    if not isinstance(count, int) or isinstance(count, bool) or count < 2:
        raise SettingsError(f"{path}: num_train_timesteps {count!r} is no whole number from 2 on")
    betas = config.get("trained_betas")
    if chain and betas is not None:
        if not isinstance(betas, list) or not all(number(beta) and 0 < beta <= 1 for beta in betas):
            raise SettingsError(f"{path}: trained_betas are no list of numbers above 0 and up to 1")
        if len(betas) != count:
            raise SettingsError(f"{path}: {len(betas)} trained_betas for num_train_timesteps {count}")
