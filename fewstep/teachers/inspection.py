"""What a teacher folder holds, read from its JSON and safetensors headers alone: no torch, no code executed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewstep.teachers.scheduler_config import process_and_prediction
from fewstep.teachers.weight_files import check_weights, read_json
from fewstep.util.errors import SettingsError

DESCRIPTION = "fewstep.json"
GUIDE = "guide"  # the part of an exported student's folder that holds a network beside the unet
NETWORKS = (["diffusers", "UNet2DModel"], ["routed", "RoutedUNet"])  # the second: several students in one model
FORMAT = "fewstep/1"
DENOISERS = ("transformer", "unet", "prior")
"""Names of the part of a pipeline that is called at every step."""
_MAX_DESCRIPTION = 1_000_000_000  # bytes; constants of a video network's call, positions of its tokens, are in it
UNUSED = frozenset({"safety_checker", "feature_extractor", "watermark", "image_processor"})
"""Parts that neither a denoiser nor what encodes and decodes for it needs."""


@dataclass(frozen=True)
class TeacherInfo:
    """A teacher folder that has all it needs.

    pipeline: class of the saved pipeline. part: name of its denoiser, `network` the class of that.
    sample_shape: of one state, (C, H, W) for images; None where only a recording of the pipeline tells it.
    num_classes: 0 when unconditional or conditional on texts; null_class None when guidance is not possible.
    process: kind of noise process. weights: the denoiser's safetensors files; parameters: of it.
    description: the folder's fewstep.json, if any; its `family` tells what was recorded of a pipeline.
    parts: of the pipeline, a student's guide among them. variant: of the weights, as it was asked for.
    """

    folder: Path
    pipeline: str
    part: str
    network: str
    scheduler: str
    process: str
    prediction_type: str
    sample_shape: tuple[int, ...] | None
    num_classes: int
    null_class: int | None
    weights: tuple[Path, ...]
    parameters: int
    network_config: dict[str, Any]
    scheduler_config: dict[str, Any]
    description: dict[str, Any] | None
    parts: frozenset[str] = frozenset({"unet", "scheduler"})
    variant: str | None = None

    @property
    def recorded(self) -> bool:
        """Whether the pipeline is more than a denoiser of pixels, so that its calls are recorded and replayed."""
        return not self.parts <= {"unet", "scheduler", GUIDE} or self.network not in {name for _, name in NETWORKS}

    @property
    def textual(self) -> bool:
        """Whether its conditions are texts."""
        return _textual(self.parts)

    @property
    def groups(self) -> list[list[int]]:
        """Of classes, whose labels the network was trained with beside the classes'."""
        return (self.description or {}).get("groups", [])


def inspect_teacher(folder: str | os.PathLike, variant: str | None = None) -> TeacherInfo:
    """Check a saved diffusers pipeline folder, without loading it.

    variant: of the weights (`fp16`), where a part has several; by default the plain ones, else the only one.
    Raises SettingsError, naming the path and what to do, for: no such folder, no model_index.json, no denoiser or two,
    another kind of scheduler, no safetensors weights of some part (pickled weights are refused), a weight file that is
    cut short, code in the folder (it is never executed).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SettingsError(f"{folder}: no such teacher folder", hint="give the folder of a saved diffusers pipeline")
    index = read_json(folder / "model_index.json", "every saved diffusers pipeline has this file")
    parts, pipeline = _parts(folder / "model_index.json", index), _pipeline(folder / "model_index.json", index)
    description = read_description(folder)
    part = _denoiser(folder, parts)
    config = read_json(folder / part / "config.json", "the denoiser's configuration; save_pretrained writes it")
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json", "save_pretrained writes it")
    name = str(scheduler.get("_class_name") or parts["scheduler"][1])
    plain = parts[part] in NETWORKS
    shape = _shape(folder, config) if plain else None
    labels = _labels(folder, config) if plain else _classes(folder / part / "config.json", parts, config)
    process, prediction = process_and_prediction(folder, name, scheduler, description is not None)
    null_class = None if plain or not labels else labels
    if description is not None:
        labels, null_class = description["num_classes"], description["null_class"]
        process, prediction = description["process"]["kind"], description["prediction_type"]
        shape = tuple(description["sample_shape"])
    weights, parameters = check_weights(folder / part, variant)
    if GUIDE in parts:
        further, count = check_weights(folder / GUIDE, variant)
        weights, parameters = (*weights, *further), parameters + count
    _check_parts(folder, {key: value for key, value in parts.items() if key not in (part, GUIDE)}, variant)
    if description is not None and "family" in description:  # of a student, a class of its own pipeline.py
        pipeline = description["family"]["pipeline"]
    return TeacherInfo(
        folder, pipeline, part, parts[part][1], name, process,
        prediction, shape, labels, null_class, weights, parameters, config, scheduler, description, frozenset(parts),
        variant,
    )  # fmt: skip


def _parts(path: Path, index: dict[str, Any]) -> dict[str, list[str]]:
    """The parts of a pipeline: library and class, by name; [null, null] is an optional part that was left out."""
    listed = {name: value for name, value in index.items() if isinstance(value, list) and not name.startswith("_")}
    for name, value in listed.items():
        if len(value) != 2 or not (value == [None, None] or all(isinstance(word, str) and word for word in value)):
            raise SettingsError(f"{path}: {name}: expected the part's library and class, two texts")
    return {name: value for name, value in listed.items() if value != [None, None]}


def _pipeline(path: Path, index: dict[str, Any]) -> str:
    """The class of a pipeline, which stands behind a module's name where code of the folder defines it."""
    named = index.get("_class_name")
    named = named[-1] if isinstance(named, list) and named else named
    if not isinstance(named, str) or not named:
        raise SettingsError(f"{path}: _class_name: expected the pipeline's class")
    return named


def _denoiser(folder: Path, parts: dict[str, Any]) -> str:
    """Name of the pipeline's one denoiser."""
    found = [name for name in DENOISERS if name in parts]
    if len(found) != 1 or "scheduler" not in parts:
        raise SettingsError(
            f"{folder / 'model_index.json'}: the parts are {', '.join(sorted(parts)) or 'none'}; "
            f"a teacher has a scheduler and one denoiser ({' or '.join(DENOISERS)})"
        )
    further = sorted(name for name in parts if re.fullmatch(rf"{found[0]}_\d+", name))
    if further:
        raise SettingsError(
            f"{folder / 'model_index.json'}: {found[0]} is one of several denoisers, beside {', '.join(further)}, "
            "which take turns by the level of the noise; a teacher has one",
            hint="take a pipeline whose one denoiser was trained at all levels",
        )
    if parts[found[0]] not in NETWORKS and parts[found[0]][0] != "diffusers":
        raise SettingsError(f"{folder / 'model_index.json'}: the denoiser is a {'.'.join(parts[found[0]])}; "
                            f"a teacher's is a network of diffusers, such as UNet2DModel")  # fmt: skip
    return found[0]


def _classes(path: Path, parts: dict[str, Any], config: dict[str, Any]) -> int:
    """Classes of a transformer that embeds them itself; configurations of text-conditional ones name a number too."""
    counted = _count(path, config, "num_embeds_ada_norm")
    return 0 if _textual(parts) else counted


def _textual(parts: Iterable[str]) -> bool:
    """Whether a pipeline of these parts reads texts: not every encoder of them is named so."""
    return any(word in name for name in parts for word in ("text_encoder", "tokenizer"))


def _count(path: Path, config: dict[str, Any], key: str) -> int:
    value = config.get(key)
    if value is not None and (type(value) is not int or value < 0):
        raise SettingsError(f"{path}: {key} {value!r} is no number of classes")
    return value or 0


def _check_parts(folder: Path, parts: dict[str, Any], variant: str | None) -> None:
    """Raises SettingsError for a part whose weights are missing, cut short or pickled, or that brings code."""
    for name, (module, _kind, *_) in parts.items():
        code = folder / name / f"{module}.py"
        if name not in UNUSED and os.path.isfile(code):     # False for what is no name of a file, where Path raises
            raise SettingsError(f"{code}: code in a teacher's folder is never executed, and no setting changes that",
                                hint="take a pipeline whose parts are all of diffusers and transformers; where such a "
                                     "class has this one's weights, load them into it and save that")  # fmt: skip
        if name not in UNUSED and not os.path.isdir(folder / name):
            raise SettingsError(f"{folder / name}: missing; {folder / 'model_index.json'} names it as a part")
        if name not in UNUSED and os.path.isfile(folder / name / "config.json"):
            check_weights(folder / name, variant)


def read_description(folder: Path) -> dict[str, Any] | None:
    """The fewstep.json of a folder, or None when it has none (a folder saved by stock diffusers)."""
    path = folder / DESCRIPTION
    if not path.exists():
        return None
    data = read_json(path, "written by fewstep", _MAX_DESCRIPTION)
    if data.get("format") != FORMAT:
        raise SettingsError(f"{path}: format {data.get('format')!r} is not {FORMAT!r}; use the version that wrote it")
    kinds = {"process": dict, "prediction_type": str, "adapter": dict, "sample_shape": list, "num_classes": int}
    wrong = [key for key, kind in kinds.items() if type(data.get(key)) is not kind]
    if "sample_shape" not in wrong and not all(type(side) is int and side > 0 for side in data["sample_shape"] or [0]):
        wrong.append("sample_shape")
    wrong += [key for key in ("num_classes", "null_class") if type(data.get(key)) is int and data[key] < 0]
    family = data.get("family", {"pipeline": ""})
    if not isinstance(family, dict) or not isinstance(family.get("pipeline"), str):
        wrong.append("family")
    groups = data.get("groups", [])
    if not (isinstance(groups, list) and all(isinstance(g, list) and all(type(k) is int for k in g) for g in groups)):
        wrong.append("groups")
    null, kind = data.get("null_class", ""), (data.get("process") or {}).get("kind") if "process" not in wrong else None
    if wrong or type(null) not in (int, type(None)) or not isinstance(kind, str):
        raise SettingsError(f"{path}: incomplete ({', '.join(wrong) or 'null_class, process'}); save the folder again")
    return data


def _shape(folder: Path, config: dict[str, Any]) -> tuple[int, int, int]:
    size, channels = config.get("sample_size"), config.get("in_channels")
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in (*sides, channels)):
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
    return _count(folder / "unet" / "config.json", config, "num_class_embeds")
