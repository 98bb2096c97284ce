"""Well-known feature extractors from local files whose hash was expected. Nothing is ever fetched.

Looked for: `<folder>/inception/model.safetensors`, `<folder>/dinov2|clip|clap/config.json` and `…/model.safetensors`,
for clap also `…/preprocessor_config.json`, and `<folder>/clip|clap/tokenizer.json` (clip_tokenizer, clap_tokenizer),
with which the text tower is kept.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from fewstep.data.medium import IMAGES, SOUND, Medium
from fewstep.metrics.extractors.extractor import Extractor
from fewstep.metrics.extractors.image_encoders import Clip, Dinov2, Tower
from fewstep.metrics.extractors.inception import SIZE, InceptionFID
from fewstep.metrics.extractors.sound_encoders import Clap
from fewstep.util.errors import DataDiffers, SettingsError

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
PREPROCESSOR = "preprocessor_config.json"
WITH_TEXTS = {"clip": "clip_tokenizer", "clap": "clap_tokenizer"}
"""Extractors that compare samples with texts, and what has to be given beside each for that."""
_WANTED = {
    "inception": "the FID's Inception-v3 (`pt_inception-2015-12-05-6726825d.pth` of the PyTorch port), converted once "
                 "to safetensors as docs/extractors.md says",
    "dinov2": "a DINOv2 encoder in the transformers format, such as facebook/dinov2-large",
    "clip": "a CLIP model in the transformers format, such as openai/clip-vit-large-patch14-336",
    "clip_tokenizer": "the tokenizer of that CLIP model",
    "clap": "a CLAP model in the transformers format, such as laion/clap-htsat-unfused",
    "clap_tokenizer": "the tokenizer of that CLAP model",
}  # fmt: skip
_TOWERS: dict[str, type[Tower]] = {"dinov2": Dinov2, "clip": Clip}


def digest_of(folder: Path, name: str) -> str:
    """The hash that the settings expect: SHA-256 of the weights file; with configurations, of all files' hashes.

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


def made_for(name: str) -> Medium:
    """The medium that an extractor, or its tokenizer, is made for."""
    return SOUND if name.startswith("clap") else IMAGES


def _files(name: str) -> tuple[str, ...]:
    if name not in _WANTED:
        raise SettingsError(f"unknown extractor {name!r}: there are {', '.join(_WANTED)}")
    if name in WITH_TEXTS.values():
        return (TOKENIZER,)
    return {"inception": (WEIGHTS,), "clap": (CONFIG, PREPROCESSOR, WEIGHTS)}.get(name, (CONFIG, WEIGHTS))


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

    With `clip_tokenizer` beside `clip` CLIP compares with texts, and so does CLAP.

    Raises:
        SettingsError: a file is missing or another one than expected; a tokenizer without its CLIP.
        DataDiffers: the weights do not fit the architecture.
    """
    verify(folder, expected)
    tokenizers = {name: Path(folder) / name / TOKENIZER for name, own in WITH_TEXTS.items() if own in expected}
    for name in tokenizers:
        if name not in expected:
            raise SettingsError(f"evaluate.extractors.{WITH_TEXTS[name]}: there is no evaluate.extractors.{name} "
                                "beside it")  # fmt: skip
    return [_load(Path(folder) / name, name, digest, device, tokenizers.get(name))
            for name, digest in expected.items() if name not in WITH_TEXTS.values()]


def _load(folder: Path, name: str, digest: str, device: str, tokenizer: Path | None) -> Extractor:
    try:
        weights = load_file(folder / WEIGHTS)
        if name == "inception":
            network: nn.Module = InceptionFID(len(weights["Conv2d_1a_3x3.conv.weight"]))
            weights = {key: value for key, value in weights.items() if not key.startswith(("fc.", "AuxLogits."))}
            resized = f"{SIZE} x {SIZE}, bilinear"
        elif name == "clap":
            network = Clap(*(json.loads((folder / file).read_text()) for file in (CONFIG, PREPROCESSOR)), tokenizer)
            weights = network.names(weights)
            resized = f"the first {network.seconds:g} s, channels averaged"
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
    return Extractor(network, name, digest, network.dimensions, resized=resized, antialiased=name in _TOWERS,
                     texts=network.texts if tokenizer is not None else None,
                     medium=made_for(name))  # fmt: skip
