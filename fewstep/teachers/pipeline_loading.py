"""A stock pipeline from its folder, with all its parts or with a denoiser that has no weights. No code of the folder
runs, and only safetensors are read."""

from __future__ import annotations

import os
from collections.abc import Iterable
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
from fewstep.util.errors import SettingsError

UNNEEDED = ("safety_checker", "feature_extractor")
"""Parts that are left out where the pipeline allows it: they judge images, or serve inputs that are not given."""
_OF_IMAGES = "image_encoder"     # left out where no image is given


def network_class(name: str) -> type[nn.Module]:
    """The network of this name: of diffusers, or several in one model. Raises SettingsError where there is none."""
    kind = RoutedUNet if name == RoutedUNet.__name__ else getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.ModelMixin)):
        raise SettingsError(f"{name} is no network of diffusers {diffusers.__version__}")
    return kind


def probe_network(folder: Path, name: str) -> nn.Module:
    """The network of a part's folder without weights (on meta): it has the configuration that pipelines ask for."""
    config = read_json(folder / "config.json", "save_pretrained writes it")
    with torch.device("meta"):
        return network_class(name).from_config(config)


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
    unneeded = UNNEEDED if image_inputs(kind) else (*UNNEEDED, _OF_IMAGES)
    given |= {name: None for name in (*unneeded, *without) if name in info.parts}
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
