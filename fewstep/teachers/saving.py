"""Denoiser → a pipeline folder that stock diffusers loads, with a fewstep.json for our own loader."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import diffusers

from fewstep.diffusion.denoiser import Denoiser
from fewstep.networks.routed import RoutedUNet
from fewstep.teachers.inspection import DESCRIPTION, FORMAT, TeacherInfo
from fewstep.teachers.linking import link_parts
from fewstep.teachers.schedulers import stock_scheduler
from fewstep.util.errors import SettingsError
from fewstep.util.files import write_json


def save_teacher(denoiser: Denoiser, folder: str | os.PathLike) -> None:
    """Write a teacher as a stock pipeline folder: safetensors and JSON only, the same bytes for the same weights.

    The pipeline is ConsistencyModelPipeline, which passes class labels, with the scheduler that fits the process.
    Raises SettingsError for a network that is no UNet2DModel.
    """
    scheduler = stock_scheduler(denoiser.process, denoiser.prediction_type, denoiser.adapter)
    write_pipeline(denoiser, folder, scheduler, {"role": "teacher"})


def link_pipeline(info: TeacherInfo, target: str | os.PathLike, teacher: Denoiser, trained: bool = False) -> None:
    """Write a teacher that was loaded from an inspected pipeline folder as a folder of its own.

    Its files are those that are read, under a further name (`link_parts`): no second copy on the disk where both
    folders lie on one file system, and weights of one variant under plain names. fewstep.json holds what was recorded
    of the pipeline, so that loading the folder records nothing again. trained: the network's weights are not those of
    the folder any more, and are written.
    """
    target, own = Path(target), {info.part} if trained else ()
    write_json(target / "model_index.json", link_parts(info, target, without=own))
    if trained:
        save_network(teacher.network, target / info.part)
    write_json(target / DESCRIPTION, description_of(teacher, {"role": "teacher"}))


def description_of(denoiser: Denoiser, extra: dict[str, Any]) -> dict[str, Any]:
    """What fewstep.json says of a denoiser, for JSON; the call that adapter and family share stands there once."""
    description = {"format": FORMAT, **extra, **denoiser.describe()}
    if denoiser.family is not None:
        description["family"] = denoiser.family.to_dict()
        if getattr(denoiser.adapter, "call", None) is denoiser.family.call:
            del description["adapter"]["call"]
    return description


def write_pipeline(denoiser: Denoiser, folder: str | os.PathLike, scheduler: Any, extra: dict[str, Any]) -> None:
    """The parts that teachers and students share: unet/, scheduler/, model_index.json, fewstep.json."""
    network = getattr(denoiser.network, "base", denoiser.network)
    if not isinstance(network, diffusers.UNet2DModel | RoutedUNet):
        raise SettingsError(f"only a UNet2DModel is saved as a pipeline folder, not {type(network).__name__}")
    folder = Path(folder)
    pipeline = diffusers.ConsistencyModelPipeline(unet=network, scheduler=scheduler)
    pipeline.save_pretrained(folder, safe_serialization=True)
    _name_no_origin(folder / "unet")
    index = json.loads((folder / "model_index.json").read_bytes())
    index.pop("_name_or_path", None)
    write_json(folder / "model_index.json", index)
    write_json(folder / DESCRIPTION, description_of(denoiser, extra))


def save_network(network: Any, folder: Path) -> None:
    """A network of diffusers as a part of a pipeline's folder."""
    network.save_pretrained(folder, safe_serialization=True)
    _name_no_origin(folder)


def _name_no_origin(folder: Path) -> None:
    """Takes the folder it was once loaded from out of a network's configuration."""
    config = json.loads((folder / "config.json").read_bytes())
    config.pop("_name_or_path", None)
    write_json(folder / "config.json", config)
