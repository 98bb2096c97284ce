"""The safetensors files of a model folder, checked by their headers alone: no torch, nothing unpickled."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path
from typing import Any

from fewstep.util.errors import SettingsError
from fewstep.util.plain_data import NotPlain, from_json

STEMS = ("diffusion_pytorch_model", "model")  # of diffusers' models, of transformers' encoders
WEIGHTS = f"{STEMS[0]}.safetensors"
# how save_pretrained(folder, variant=…) names one file, and the index of several
_VARIANT = r"{stem}\.([a-zA-Z0-9_]+)\.safetensors|{stem}\.safetensors\.index\.([a-zA-Z0-9_]+)\.json"
CONVERT = (
    "where you trust the file, convert it once: python -c \"from diffusers import DiffusionPipeline as P; "
    "P.from_pretrained('FOLDER', use_safetensors=False)"
    ".save_pretrained('NEW FOLDER', safe_serialization=True)\""
)
_MAX_HEADER = 100_000_000  # bytes; safetensors' own limit


def read_json(path: Path, what: str, limit: int = 16_000_000) -> dict[str, Any]:
    """The object in a JSON file of at most `limit` bytes. SettingsError names the path when it is missing, too large or
    no JSON object."""
    if not path.is_file():
        raise SettingsError(f"{path}: missing", hint=what)
    if path.stat().st_size > limit:
        raise SettingsError(f"{path}: unreasonably large for a configuration")
    try:
        data = from_json(path.read_bytes())
    except (NotPlain, OSError) as error:
        raise SettingsError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(data, dict):
        raise SettingsError(f"{path}: expected a JSON object")
    return data


def check_weights(folder: Path, variant: str | None = None) -> tuple[tuple[Path, ...], int]:
    """The safetensors files of a model folder and their number of parameters, headers checked.

    variant: the one asked for (`fp16`); by default the plain files, else the only variant there is.

    Raises SettingsError where there are none, where only pickled weights are, and where a file is cut short or broken.
    """
    stem = _stem(folder)
    variant = weights_variant(folder, variant)
    names = [f"{stem}.safetensors" if variant is None else f"{stem}.{variant}.safetensors"]
    index = folder / f"{stem}.safetensors.index.{'json' if variant is None else f'{variant}.json'}"
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
            hint=CONVERT if others else "save the pipeline with save_pretrained(folder, safe_serialization=True)",
        )
    return paths, sum(math.prod(shape) for path in paths for shape in tensor_shapes(path))


def weight_files(folder: Path, variant: str | None = None) -> dict[str, Path]:
    """The weights of a model folder, by the name that they have where no variant is: files, and the index of several.

    Raises SettingsError as `check_weights` does.
    """
    paths, _ = check_weights(folder, variant)
    stem, variant = _stem(folder), weights_variant(folder, variant)
    index = folder / f"{stem}.safetensors.index.{'json' if variant is None else f'{variant}.json'}"
    if index.is_file():  # which names the others
        return {f"{stem}.safetensors.index.json": index} | {path.name: path for path in paths}
    return {f"{stem}.safetensors": paths[0]}


def weights_variant(folder: Path, chosen: str | None = None) -> str | None:
    """The variant (`fp16`) whose weights of a model folder are read; None for those under their plain name.

    chosen: the one asked for, where the folder has it; by default the plain one, else the only one.
    Raises SettingsError for a folder with weights in several variants, none of them chosen or plain.
    """
    stem = _stem(folder)
    pattern = re.compile(_VARIANT.format(stem=stem))
    found = {match[1] or match[2] for path in folder.glob(f"{stem}.*") if (match := pattern.fullmatch(path.name))}
    if chosen in found:
        return chosen
    if (folder / f"{stem}.safetensors").exists() or (folder / f"{stem}.safetensors.index.json").exists():
        return None
    if len(found) > 1:
        raise SettingsError(
            f"{folder}: the weights lie there in the variants {', '.join(sorted(found))} and not as {stem}.safetensors",
            hint="keep the files of one variant, or choose one: teacher.variant",
        )
    return found.pop() if found else None


def _stem(folder: Path) -> str:
    """How the weights in a model folder are called."""
    return next((stem for stem in STEMS if any(folder.glob(f"{stem}.*"))), STEMS[0])


def tensor_shapes(path: Path) -> list[tuple[int, ...]]:
    """Shapes of the tensors in a safetensors file, by its header. Raises SettingsError for a file that is cut short."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise SettingsError(f"{path}: not a safetensors file, or cut short")
        try:
            entries = from_json(file.read(length))
            entries.pop("__metadata__", None)
            end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
            shapes = [tuple(entry["shape"]) for entry in entries.values()]
        except (NotPlain, AttributeError, KeyError, TypeError, IndexError):
            raise SettingsError(f"{path}: the safetensors header is broken") from None
    if not all(type(side) is int and side >= 0 for shape in shapes for side in shape):
        raise SettingsError(f"{path}: the safetensors header is broken")
    if end != size - 8 - length or not sum(map(math.prod, shapes)):
        raise SettingsError(f"{path}: {size} bytes, but its header promises {end + 8 + length}: the file is incomplete")
    return shapes
