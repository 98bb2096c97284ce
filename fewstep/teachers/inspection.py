"""What a teacher folder holds, read from its JSON and safetensors headers alone: no torch, no code executed."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewstep.util.errors import SettingsError

DESCRIPTION = "fewstep.json"
GUIDE = "guide"  # the part of an exported student's folder that holds a network beside the unet
NETWORKS = (["diffusers", "UNet2DModel"], ["routed", "RoutedUNet"])  # the second: several students in one model
FORMAT = "fewstep/1"
WEIGHTS = "diffusion_pytorch_model.safetensors"
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
    process, prediction = _scheduler(folder, name, scheduler)
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
    names = [WEIGHTS]
    index = folder / f"{WEIGHTS}.index.json"
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


def _scheduler(folder: Path, name: str, config: dict[str, Any]) -> tuple[str, str]:
    path = folder / "scheduler" / "scheduler_config.json"
    prediction = str(config.get("prediction_type", "epsilon"))
    if name in FLOW_SCHEDULERS or (name in BETA_SCHEDULERS and config.get("use_flow_sigmas")):
        return "flow", "flow_prediction" if name in FLOW_SCHEDULERS else prediction
    if name in EDM_SCHEDULERS | CONSISTENCY_SCHEDULERS:
        return "edm", "sample"
    if name not in BETA_SCHEDULERS:
        known = sorted(BETA_SCHEDULERS | FLOW_SCHEDULERS | EDM_SCHEDULERS | CONSISTENCY_SCHEDULERS)
        raise SettingsError(f"{path}: scheduler {name} is not supported; known: {', '.join(known)}")
    if prediction not in _PREDICTIONS:
        raise SettingsError(f"{path}: prediction_type {prediction!r} is unknown; known: {', '.join(_PREDICTIONS)}")
    return "variance_preserving", prediction
