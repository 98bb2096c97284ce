"""A stock pipeline from its folder, with all its parts or with a denoiser that has no weights. No code of the folder
runs, and only safetensors are read."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

from fewstep.families.image_arguments import image_inputs
from fewstep.networks.routed import RoutedUNet
from fewstep.teachers.inspection import TeacherInfo
from fewstep.teachers.linking import stock_view
from fewstep.teachers.weight_files import read_json
from fewstep.util.errors import SettingsError, laid_at

UNNEEDED = ("safety_checker",)
"""Parts that are left out where the pipeline allows it: they judge images."""
_EXTRACTOR = "feature_extractor"    # of the images that the safety checker judges, or that an image encoder encodes
_OF_IMAGES = "image_encoder"        # left out where no image is given


def network_class(name: str) -> type[nn.Module]:
    """The network of this name: of diffusers, or several in one model. Raises SettingsError where there is none."""
    kind = RoutedUNet if name == RoutedUNet.__name__ else getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.ModelMixin)):
        raise SettingsError(f"{name} is no network of diffusers {diffusers.__version__}")
    return kind


def probe_network(folder: Path, name: str) -> nn.Module:
    """The network of a part's folder without weights (on meta): it has the configuration that pipelines ask for."""
    config = read_json(folder / "config.json", "save_pretrained writes it")
    kind = network_class(name)
    with laid_at(str(folder / "config.json")):
        require_known(config, kind)
    with torch.device("meta"):
        return kind.from_config(config)


def require_known(config: Mapping[str, Any], kind: type[nn.Module]) -> None:
    """Raises SettingsError for a key that diffusers would ignore, though it says something, and for weights that are
    stored as a few bits of themselves."""
    if config.get("quantization_config"):
        raise SettingsError(f"quantization_config: the weights of this {kind.__name__} are quantised, and a teacher's "
                            "are plain numbers", hint="take the pipeline's plain weights")  # fmt: skip
    known = inspect.signature(kind.__init__).parameters
    for key, value in config.items():
        if key not in known and not key.startswith("_") and value is not None and value is not False:
            raise SettingsError(f"{key}: {kind.__name__} of diffusers {diffusers.__version__} knows no such key, and "
                                "what it says would be lost", hint="a newer diffusers may know it")  # fmt: skip


def load_pipeline(info: TeacherInfo, network: nn.Module | None = None, without: Iterable[str] = ()) -> Any:
    """The pipeline of an inspected folder, in float32 on the CPU.

    network: its denoiser; by default one without weights, as encoding and decoding need. without: parts that are not
    loaded (text encoders, where conditions are at hand).
    Raises SettingsError, naming the folder, where diffusers cannot load it.
    """
    kind = getattr(diffusers, info.pipeline, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline)):
        raise SettingsError(f"{info.folder / 'model_index.json'}: {info.pipeline} is no pipeline of diffusers "
                            f"{diffusers.__version__}")  # fmt: skip
    denoiser = probe_network(info.folder / info.part, info.network) if network is None else network
    given: dict[str, Any] = {info.part: denoiser}
    seen = bool(image_inputs(kind))
    needless = () if seen and _OF_IMAGES in info.parts else (_EXTRACTOR,)
    unneeded = (*UNNEEDED, *needless, *(() if seen else (_OF_IMAGES,)))
    given |= {name: None for name in (*unneeded, *without) if name in info.parts}
    given |= {name: None for name in _left_out(info)}
    if "safety_checker" in info.parts:
        given["requires_safety_checker"] = False
    # building networks may draw from the global generator
    with stock_view(info) as place, torch.random.fork_rng(devices=[]):
        try:
            return kind.from_pretrained(
                os.fspath(place), use_safetensors=True, local_files_only=True, torch_dtype=torch.float32,
                low_cpu_mem_usage=False, **given,
            )  # fmt: skip
        except (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError, ImportError) as error:
            told = " ".join(str(error).split()) or type(error).__name__
            raise SettingsError(f"{info.folder}: the {info.pipeline} cannot be loaded: {told}") from error


def _left_out(info: TeacherInfo) -> list[str]:
    """Parts that the folder says it has not, such as an encoder of several that was too large: some pipelines take none
    for them, but ask for it by name."""
    index = read_json(info.folder / "model_index.json", "every saved diffusers pipeline has this file")
    return [name for name, value in index.items() if value == [None, None]]
