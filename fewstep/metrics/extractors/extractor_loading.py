"""Well-known feature extractors from local files whose hash was expected. Nothing is ever fetched.

Looked for: `<folder>/inception/model.safetensors`, `<folder>/dinov2|clip/config.json` and `…/model.safetensors`, and
`<folder>/clip/tokenizer.json` (clip_tokenizer), with which CLIP's text tower is kept.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from fewstep.metrics.extractors.extractor import Extractor
from fewstep.metrics.extractors.image_encoders import Clip, Dinov2, Tower
from fewstep.metrics.extractors.inception import SIZE, InceptionFID
from fewstep.util.errors import DataDiffers, SettingsError

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
WITH_TEXTS = ("clip", "clip_tokenizer")
"""What has to be given for samples to be compared with their texts by CLIP."""
_WANTED = {
    "inception": "the FID's Inception-v3 (`pt_inception-2015-12-05-6726825d.pth` of the PyTorch port), converted once "
                 "to safetensors as docs/extractors.md says",
    "dinov2": "a DINOv2 encoder in the transformers format, such as facebook/dinov2-large",
    "clip": "a CLIP model in the transformers format, such as openai/clip-vit-large-patch14-336",
    "clip_tokenizer": "the tokenizer of that CLIP model",
}  # fmt: skip
_TOWERS: dict[str, type[Tower]] = {"dinov2": Dinov2, "clip": Clip}


def digest_of(folder: Path, name: str) -> str:
    """The hash that the settings expect: SHA-256 of the weights file; with a configuration, of both files' hashes.

    Raises SettingsError, saying what to put where, when a file is missing.
    """
    files = [Path(folder) / name.removesuffix("_tokenizer") / file for file in _files(name)]
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise SettingsError(
            f"evaluate.extractors.{name}: {missing[0]} is missing",
            hint=f"put {_WANTED[name]} there ({' and '.join(path.name for path in files)}), and its hash into "
            f"evaluate.extractors.{name}; nothing is downloaded for you",
        )
    found = []
    for path in files:
        with open(path, "rb") as file:
            found.append(hashlib.file_digest(file, "sha256").hexdigest())
    return found[0] if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()


def _files(name: str) -> tuple[str, ...]:
    if name not in _WANTED:
        raise SettingsError(f"unknown extractor {name!r}: there are {', '.join(_WANTED)}")
    return {"inception": (WEIGHTS,), "clip_tokenizer": (TOKENIZER,)}.get(name, (CONFIG, WEIGHTS))


def verify(folder: Path, expected: Mapping[str, str]) -> None:
    """Raises SettingsError when a file is missing or its hash is not the one in `expected` (by name)."""
    for name, wanted in expected.items():
        found = digest_of(folder, name)
        if found != wanted:
            raise SettingsError(
                f"evaluate.extractors.{name}: the hash of {Path(folder) / name} is {found}, expected {wanted}",
                hint="put the expected file there; or, if this is the one you mean, its hash into the settings",
            )


def load_named(folder: Path, expected: Mapping[str, str], device: str = "cpu") -> list[Extractor]:
    """The extractors named in `expected` (name → hash), verified first, ready for inference.

    With `clip_tokenizer` beside `clip` CLIP compares with texts.

    Raises:
        SettingsError: a file is missing or another one than expected; a tokenizer without its CLIP.
        DataDiffers: the weights do not fit the architecture.
    """
    verify(folder, expected)
    tokenizer = None
    if "clip_tokenizer" in expected:
        if "clip" not in expected:
            raise SettingsError("evaluate.extractors.clip_tokenizer: there is no evaluate.extractors.clip beside it")
        tokenizer = Path(folder) / "clip" / TOKENIZER
    return [_load(Path(folder) / name, name, digest, device, tokenizer if name == "clip" else None)
            for name, digest in expected.items() if name != "clip_tokenizer"]


def _load(folder: Path, name: str, digest: str, device: str, tokenizer: Path | None) -> Extractor:
    try:
        weights = load_file(folder / WEIGHTS)
        if name == "inception":
            network: nn.Module = InceptionFID(len(weights["Conv2d_1a_3x3.conv.weight"]))
            weights = {key: value for key, value in weights.items() if not key.startswith(("fc.", "AuxLogits."))}
            resized = f"{SIZE} x {SIZE}, bilinear"
        else:
            network = _TOWERS[name](json.loads((folder / CONFIG).read_text()), tokenizer)
            weights = network.names(weights)
            resized = f"{network.size} x {network.size}, bicubic"
        network.load_state_dict({key: value.float() if value.is_floating_point() else value
                                 for key, value in weights.items()})  # fmt: skip
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataDiffers(f"{folder}: the weights do not fit what {name} is: {reason}") from error
    network = network.eval().requires_grad_(False).to(torch.device(device))
    return Extractor(network, name, digest, network.dimensions, resized=resized, antialiased=name != "inception",
                     texts=network.texts if tokenizer is not None else None)  # fmt: skip
