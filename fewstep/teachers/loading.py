"""A saved pipeline folder → Denoiser. Only JSON and safetensors are read; no code from the folder runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fewstep.diffusion.adapters import DiffusersAdapter
from fewstep.diffusion.denoiser import Denoiser
from fewstep.families.family import Family, record_family
from fewstep.networks.routed import RoutedUNet
from fewstep.teachers.inspection import DESCRIPTION, TeacherInfo, inspect_teacher
from fewstep.teachers.pipeline_loading import load_pipeline, network_class
from fewstep.teachers.schedulers import read_scheduler
from fewstep.teachers.weight_files import read_json, weights_variant
from fewstep.util.errors import SettingsError, laid_at


def load_teacher(folder: str | os.PathLike, variant: str | None = None,
                 arguments: Mapping[str, Any] | None = None, family: Family | None = None) -> Denoiser:  # fmt: skip
    """The teacher in a diffusers pipeline folder, frozen and in evaluation mode, on the CPU.

    Process, prediction type and preconditioning come from fewstep.json where we saved the folder, else from the
    scheduler's configuration (so sampling follows the probability-flow ODE, without a scheduler's clipping). How the
    denoiser of a pipeline with encoders is called comes from there too, else from `family` where it was recorded
    before, else from a recording of the pipeline with `arguments` of its call (sizes, frames, tokens).
    Raises SettingsError as `inspect_teacher` does, for weights that do not fit the configuration, and for a pipeline
    whose calls cannot be replayed.
    """
    info = inspect_teacher(folder, variant)
    if info.description is not None and info.description.get("lora"):
        raise SettingsError(f"{folder}: a student's adapters beside its teacher's weights, which are no teacher",
                            hint="export that student with distill.export: pipeline, and take it")  # fmt: skip
    network = load_network(info.folder / info.part, variant)
    if info.description is not None:
        return described_denoiser(info, network).requires_grad_(False).eval()
    if info.recorded and family is None:
        family = record_family(load_pipeline(info), arguments)
    found = read_scheduler(info) if family is None else read_scheduler(info, family.call, family.time_factor)
    process, prediction_type, adapter = found
    shape = info.sample_shape if family is None else family.state
    denoiser = Denoiser(network, process, prediction_type, shape, info.num_classes, info.null_class, adapter)
    denoiser.family = family
    return denoiser.requires_grad_(False).eval()


def described_denoiser(info: TeacherInfo, network: nn.Module) -> Denoiser:
    """The denoiser around `network` that the fewstep.json of an inspected folder describes.

    Raises SettingsError for a description that does not say how the network is called.
    """
    path = info.folder / DESCRIPTION
    fields = {name: info.description[name] for name in Denoiser.FIELDS} | {"groups": info.groups}
    recorded = info.description.get("family")
    if info.recorded and recorded is None:
        raise SettingsError(f"{path}: nothing is said of how the {info.network} is called; save the folder again")
    with laid_at(str(path)):
        denoiser = Denoiser.described(fields, network)
        if recorded is not None:
            denoiser.family = Family.from_dict(recorded)
            if "call" not in fields["adapter"] and isinstance(denoiser.adapter, DiffusersAdapter):
                denoiser.adapter = replace(denoiser.adapter, call=denoiser.family.call)
    return denoiser


def load_network(folder: Path, variant: str | None = None) -> nn.Module:
    """A network of diffusers, or several in one model, from its folder: safetensors only, every weight accounted for.

    Weights of a variant such as fp16 are computed with in float32, as all others.
    """
    named = read_json(folder / "config.json", "save_pretrained writes it").get("_class_name")
    kind = RoutedUNet if named == RoutedUNet.__name__ else network_class(str(named))
    with torch.random.fork_rng(devices=[]):  # building a network may draw from the global generator
        try:
            # the way that saves memory patches nn.Module for the whole process: two threads that load at once may leave
            # it patched, and every later module is built without storage
            network, loading = kind.from_pretrained(
                str(folder), use_safetensors=True, local_files_only=True, output_loading_info=True,
                low_cpu_mem_usage=bool(getattr(kind, "_keep_in_fp32_modules", None)),  # which diffusers asks for
                variant=weights_variant(folder, variant), torch_dtype=torch.float32,
            )  # fmt: skip
        except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise SettingsError(f"{folder}: the {kind.__name__} cannot be loaded: {first}") from error
    wrong = [*loading["missing_keys"], *loading["unexpected_keys"], *loading["mismatched_keys"]]
    if wrong:
        raise SettingsError(f"{folder}: {len(wrong)} weights do not fit the configuration, such as {wrong[0]}")
    return network.eval()


__all__ = ["TeacherInfo", "described_denoiser", "inspect_teacher", "load_network", "load_teacher"]
