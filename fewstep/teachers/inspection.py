"""What a teacher folder holds, read from its JSON and safetensors headers alone: no torch, no code executed."""

from __future__ import annotations

import json
import math
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewstep.util.errors import SettingsError


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


DESCRIPTION = "fewstep.json"
GUIDE = "guide"  # the part of an exported student's folder that holds a network beside the unet
NETWORKS = (["diffusers", "UNet2DModel"], ["routed", "RoutedUNet"])  # the second: several students in one model
FORMAT = "fewstep/1"
_STEM = "diffusion_pytorch_model"
WEIGHTS = f"{_STEM}.safetensors"
# how save_pretrained(folder, variant=…) names one file, and the index of several
_VARIANT = re.compile(rf"{_STEM}\.([a-zA-Z0-9_]+)\.safetensors|{_STEM}\.safetensors\.index\.([a-zA-Z0-9_]+)\.json")
# beta schedulers whose config tells the chain a network was trained on
BETA_SCHEDULERS = frozenset(
    f"{name}Scheduler"
    for name in (
        *("DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "DEISMultistep", "DPMSolverMultistep"),
        *("DPMSolverSinglestep", "EulerAncestralDiscrete", "EulerDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete"),
        *("KDPM2Discrete", "LCM", "LMSDiscrete", "PNDM", "TCD", "UniPCMultistep"),
    )
)
FLOW_SCHEDULERS = frozenset({"FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"})
EDM_SCHEDULERS = frozenset({"EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"})
CONSISTENCY_SCHEDULERS = frozenset({"CMStochasticIterativeScheduler"})
# of these, the ones that rescale their chain to zero terminal SNR when told so
ZERO_SNR_SCHEDULERS = frozenset(
    f"{name}Scheduler"
    for name in (
        *("DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "DPMSolverMultistep", "EulerAncestralDiscrete"),
        *("EulerDiscrete", "LCM", "TCD", "UniPCMultistep"),
    )
)
# what a network was trained on: read, by read_scheduler or here
_MEANING = _words(
    """beta_end beta_schedule beta_start invert_sigmas num_train_timesteps predict_epsilon prediction_type
    rescale_betas_zero_snr sigma_data sigma_max sigma_min timestep_type trained_betas use_flow_sigmas"""
)
# how a stock pipeline samples: means nothing for the network, which is sampled here by solvers of our own
_SAMPLING = _words(
    """algorithm_type base_image_seq_len base_shift clip_denoised clip_sample clip_sample_range disable_corrector
    dynamic_thresholding_ratio euler_at_final final_sigmas_type flow_shift interpolation_type lambda_min_clipped
    lower_order_final max_image_seq_len max_shift original_inference_steps predict_x0 rho s_noise sample_max_value
    set_alpha_to_one shift shift_terminal sigma_schedule skip_prk_steps solver_order solver_p solver_type steps_offset
    stochastic_sampling tensor_format thresholding time_shift_type timestep_scaling timestep_spacing timestep_values
    use_beta_sigmas use_dynamic_shifting use_exponential_sigmas use_karras_sigmas use_lu_lambdas variance_type"""
)
_PREDICTIONS = ("epsilon", "sample", "v_prediction", "flow_prediction")
_MAX_HEADER = 100_000_000  # bytes; safetensors' own limit


@dataclass(frozen=True)
class TeacherInfo:
    """A teacher folder that has all it needs.

    sample_shape (C, H, W); num_classes 0 when unconditional; null_class None when guidance is not possible;
    process: kind of noise process; weights: the safetensors files; description: the folder's fewstep.json, if any;
    parts: of the pipeline, a student's guide among them.
    """

    folder: Path
    pipeline: str
    scheduler: str
    process: str
    prediction_type: str
    sample_shape: tuple[int, int, int]
    num_classes: int
    null_class: int | None
    weights: tuple[Path, ...]
    parameters: int
    unet_config: dict[str, Any]
    scheduler_config: dict[str, Any]
    description: dict[str, Any] | None
    parts: frozenset[str] = frozenset({"unet", "scheduler"})

    @property
    def groups(self) -> list[list[int]]:
        """Of classes, whose labels the network was trained with beside the classes'."""
        return (self.description or {}).get("groups", [])


def inspect_teacher(folder: str | os.PathLike) -> TeacherInfo:
    """Check a saved diffusers pipeline folder with a UNet2DModel, without loading it.

    Raises SettingsError, naming the path and what to do, for: no such folder, no model_index.json, another kind of
    network or scheduler, no safetensors weights (pickled weights are refused) or a weight file that is cut short.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SettingsError(f"{folder}: no such teacher folder", hint="give the folder of a saved diffusers pipeline")
    index = read_json(folder / "model_index.json", "every saved diffusers pipeline has this file")
    parts = {name: value for name, value in index.items() if isinstance(value, list) and not name.startswith("_")}
    parts = {name: value for name, value in parts.items() if any(value)}  # [null, null]: an optional part left out
    description = read_description(folder)
    known = {"unet", "scheduler"}
    if description is not None and description.get("role") == "student" and parts.get(GUIDE) == NETWORKS[0]:
        known.add(GUIDE)
    if parts.get("unet") not in NETWORKS or set(parts) != known:
        raise SettingsError(
            f"{folder / 'model_index.json'}: the parts are {', '.join(sorted(parts)) or 'none'}; "
            "a teacher has a UNet2DModel called unet and a scheduler, and nothing else"
        )
    unet = read_json(folder / "unet" / "config.json", "the UNet's configuration; save_pretrained writes it")
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json", "save_pretrained writes it")
    name = str(scheduler.get("_class_name") or parts["scheduler"][1])
    shape, labels = _shape(folder, unet), _labels(folder, unet)
    process, prediction = _scheduler(folder, name, scheduler, description is not None)
    null_class = None
    if description is not None:
        labels, null_class = description["num_classes"], description["null_class"]
        process, prediction = description["process"]["kind"], description["prediction_type"]
        shape = tuple(description["sample_shape"])
    weights, parameters = check_weights(folder / "unet")
    if GUIDE in known:
        further, count = check_weights(folder / GUIDE)
        weights, parameters = (*weights, *further), parameters + count
    pipeline = index.get("_class_name")
    return TeacherInfo(
        folder, pipeline if isinstance(pipeline, str) else str(pipeline[-1]), name, process, prediction, shape, labels,
        null_class, weights, parameters, unet, scheduler, description, frozenset(parts),
    )  # fmt: skip


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The object in a JSON file. SettingsError names the path when it is missing, too large or no JSON object."""
    if not path.is_file():
        raise SettingsError(f"{path}: missing", hint=what)
    if path.stat().st_size > 16_000_000:
        raise SettingsError(f"{path}: unreasonably large for a configuration")
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(data, dict):
        raise SettingsError(f"{path}: expected a JSON object")
    return data


def read_description(folder: Path) -> dict[str, Any] | None:
    """The fewstep.json of a folder, or None when it has none (a folder saved by stock diffusers)."""
    path = folder / DESCRIPTION
    if not path.exists():
        return None
    data = read_json(path, "written by fewstep")
    if data.get("format") != FORMAT:
        raise SettingsError(f"{path}: format {data.get('format')!r} is not {FORMAT!r}; use the version that wrote it")
    kinds = {"process": dict, "prediction_type": str, "adapter": dict, "sample_shape": list, "num_classes": int}
    wrong = [key for key, kind in kinds.items() if not isinstance(data.get(key), kind)]
    groups = data.get("groups", [])
    if not (isinstance(groups, list) and all(isinstance(g, list) and all(type(k) is int for k in g) for g in groups)):
        wrong.append("groups")
    if wrong or not isinstance(data.get("null_class", ""), (int, type(None))) or "kind" not in data["process"]:
        raise SettingsError(f"{path}: incomplete ({', '.join(wrong) or 'null_class, process'}); save the folder again")
    return data


def check_weights(folder: Path) -> tuple[tuple[Path, ...], int]:
    """The safetensors files of a diffusers model folder and their number of parameters, headers checked.

    Raises SettingsError where there are none, where only pickled weights are, and where a file is cut short or broken.
    """
    variant = weights_variant(folder)
    names = [WEIGHTS if variant is None else f"{_STEM}.{variant}.safetensors"]
    index = folder / (f"{WEIGHTS}.index.json" if variant is None else f"{WEIGHTS}.index.{variant}.json")
    if index.is_file():
        mapping = read_json(index, "").get("weight_map")
        names = sorted(set(map(str, mapping.values()))) if isinstance(mapping, dict) else []
        if not names or any(Path(name).name != name for name in names):
            raise SettingsError(f"{index}: no usable weight_map")
    paths = tuple(folder / name for name in names)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        others = sorted(path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        found = f"; found {', '.join(others)}, which is pickled and never loaded" if others else ""
        raise SettingsError(
            f"{missing[0]}: no safetensors weights{found}",
            hint="save the pipeline with save_pretrained(folder, safe_serialization=True)",
        )
    return paths, sum(_parameters(path) for path in paths)


def weights_variant(folder: Path) -> str | None:
    """The variant (`fp16`) in which alone a model folder has its weights; None where they have their plain name.

    Raises SettingsError for a folder with weights in several variants and none under the plain name.
    """
    if (folder / WEIGHTS).exists() or (folder / f"{WEIGHTS}.index.json").exists():
        return None
    found = {match[1] or match[2] for path in folder.glob(f"{_STEM}.*") if (match := _VARIANT.fullmatch(path.name))}
    if len(found) > 1:
        raise SettingsError(
            f"{folder}: the weights lie there in the variants {', '.join(sorted(found))} and not as {WEIGHTS}",
            hint="keep the files of one variant",
        )
    return found.pop() if found else None


def _parameters(path: Path) -> int:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise SettingsError(f"{path}: not a safetensors file, or cut short")
        try:
            entries = json.loads(file.read(length))
            entries.pop("__metadata__", None)
            end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
            count = sum(_product(entry["shape"]) for entry in entries.values())
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError, IndexError):
            raise SettingsError(f"{path}: the safetensors header is broken") from None
    if end != size - 8 - length or not count:
        raise SettingsError(f"{path}: {size} bytes, but its header promises {end + 8 + length}: the file is incomplete")
    return count


def _product(shape: list[int]) -> int:
    product = 1
    for side in shape:
        product *= int(side)
    return product


def _shape(folder: Path, config: dict[str, Any]) -> tuple[int, int, int]:
    size, channels = config.get("sample_size"), config.get("in_channels")
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in (*sides, channels)):
        raise SettingsError(f"{folder / 'unet' / 'config.json'}: needs sample_size and in_channels")
    return (channels, *sides)


def _labels(folder: Path, config: dict[str, Any]) -> int:
    if config.get("time_embedding_type", "positional") == "learned":
        raise SettingsError(
            f"{folder / 'unet' / 'config.json'}: time_embedding_type 'learned' is not supported; "
            "solvers evaluate a teacher between whole timesteps"
        )
    if config.get("class_embed_type") is not None:
        raise SettingsError(
            f"{folder / 'unet' / 'config.json'}: class_embed_type {config['class_embed_type']!r} is not supported; "
            "a teacher takes class labels (num_class_embeds) or none"
        )
    return int(config.get("num_class_embeds") or 0)


def _scheduler(folder: Path, name: str, config: dict[str, Any], described: bool) -> tuple[str, str]:
    """Kind of process and prediction type; `described`: fewstep.json says them, so that only the name counts."""
    path = folder / "scheduler" / "scheduler_config.json"
    known = BETA_SCHEDULERS | FLOW_SCHEDULERS | EDM_SCHEDULERS | CONSISTENCY_SCHEDULERS
    if name not in known:
        raise SettingsError(f"{path}: scheduler {name} is not supported; known: {', '.join(sorted(known))}")
    if not described:
        _check_keys(path, name, config)
    prediction = str(config.get("prediction_type", "epsilon"))
    if name in FLOW_SCHEDULERS:
        return "flow", "flow_prediction"
    if name in EDM_SCHEDULERS | CONSISTENCY_SCHEDULERS:
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
    if name in EDM_SCHEDULERS and prediction not in ("epsilon", "v_prediction"):
        refuse("prediction_type", "EDM's preconditioning is known for 'epsilon' and 'v_prediction'")
    if name not in BETA_SCHEDULERS:
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

    chain = name in BETA_SCHEDULERS
    for key in ("beta_start", "beta_end"):
        if chain and key in config and not (number(config[key]) and 0 <= config[key] <= 1):
            raise SettingsError(f"{path}: {key} {config[key]!r} is no number from 0 to 1")
    for key in ("sigma_min", "sigma_max", "sigma_data"):
        if config.get(key) is not None and not (number(config[key]) and config[key] > 0):
            raise SettingsError(f"{path}: {key} {config[key]!r} is no positive number")
    count = config.get("num_train_timesteps", 1000)
    if not isinstance(count, int) or isinstance(count, bool) or count < 2:
        raise SettingsError(f"{path}: num_train_timesteps {count!r} is no whole number from 2 on")
    betas = config.get("trained_betas")
    if chain and betas is not None:
        if not isinstance(betas, list) or not all(number(beta) and 0 < beta <= 1 for beta in betas):
            raise SettingsError(f"{path}: trained_betas are no list of numbers above 0 and up to 1")
        if len(betas) != count:
            raise SettingsError(f"{path}: {len(betas)} trained_betas for num_train_timesteps {count}")
