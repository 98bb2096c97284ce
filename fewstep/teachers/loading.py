"""A saved pipeline folder → Denoiser. Only JSON and safetensors are read; no code from the folder runs."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fewstep.diffusion.adapters import DiffusersAdapter
from fewstep.diffusion.denoiser import Denoiser
from fewstep.families.family import Family
from fewstep.families.recorded_family import record_family
from fewstep.networks.routed import RoutedUNet
from fewstep.teachers.inspection import DESCRIPTION, TeacherInfo, inspect_teacher
from fewstep.teachers.pipeline_loading import load_pipeline, network_class, probe_network, require_known
from fewstep.teachers.schedulers import read_scheduler
from fewstep.teachers.weight_files import check_weights, read_json, tensor_shapes, weights_variant
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
    require_whole(info)
    network = load_network(info.folder / info.part, variant)
    if not info.recorded and not isinstance(network, RoutedUNet):
        _require_call(info)
    if info.description is None and info.recorded and family is None:
        family = record_family(load_pipeline(info), arguments)
    return teacher_of(info, network, family)


def require_whole(info: TeacherInfo) -> None:
    """Raises SettingsError for a folder with a student's adapters, whose network is its teacher's."""
    if info.description is not None and info.description.get("lora"):
        raise SettingsError(f"{info.folder}: a student's adapters beside its teacher's weights, which are no teacher",
                            hint="export that student with distill.export: pipeline, and take it")  # fmt: skip


def teacher_of(info: TeacherInfo, network: nn.Module, family: Family | None = None) -> Denoiser:
    """The frozen denoiser around `network`, which may lie on meta, as an inspected folder says that it is called.

    family: as its pipeline was recorded, where it is one with encoders and has no fewstep.json.
    """
    if info.description is not None:
        return described_denoiser(info, network).requires_grad_(False).eval()
    found = read_scheduler(info) if family is None else read_scheduler(info, family.call, family.time_factor,
                                                                       family.time_offset)  # fmt: skip
    process, prediction_type, adapter = found
    shape = info.sample_shape if family is None else family.state
    with laid_at(str(info.folder)):
        denoiser = Denoiser(network, process, prediction_type, shape, info.num_classes, info.null_class, adapter)
    denoiser.family = family
    return _with_side(info, denoiser).requires_grad_(False).eval()


def _with_side(info: TeacherInfo, denoiser: Denoiser) -> Denoiser:
    """The denoiser with the network beside its own, if its pipeline has one: without weights where its own has none."""
    call = None if denoiser.family is None else denoiser.family.call
    if call is None or call.side is None:
        return denoiser
    folder = info.folder / call.side.part
    if any(parameter.is_meta for parameter in denoiser.network.parameters()):
        config = read_json(folder / "config.json", "save_pretrained writes it")
        network = probe_network(folder, str(config.get("_class_name")))
    else:
        network = load_network(folder)
    side = call.side.attached(network)
    denoiser.family = replace(denoiser.family, call=replace(call, side=side))
    denoiser.adapter = replace(denoiser.adapter, call=denoiser.family.call if denoiser.adapter.call is call else
                               replace(denoiser.adapter.call, side=side))  # fmt: skip
    return denoiser


def _require_call(info: TeacherInfo) -> None:
    """Raises SettingsError where the network that the configuration describes cannot be called, tried without weights.

    Its constructor takes values that its call fails on.
    """
    path, labels = info.folder / info.part, info.network_config.get("num_class_embeds")
    try:
        probe = probe_network(path, info.network)
        with torch.no_grad(), torch.device("meta"):
            probe(torch.zeros(1, *info.sample_shape), torch.zeros(1),
                  class_labels=torch.zeros(1, dtype=torch.long) if labels else None)  # fmt: skip
    except MemoryError:
        raise
    except Exception as error:  # of whatever kind the layers of diffusers raise
        told = " ".join(str(error).split()) or type(error).__name__
        raise SettingsError(f"{path / 'config.json'}: a {info.network} of this configuration cannot be called with "
                            f"samples of shape {info.sample_shape}: {told}") from error


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
    return _with_side(info, denoiser)


def load_network(folder: Path, variant: str | None = None) -> nn.Module:
    """A network of diffusers, or several in one model, from its folder: safetensors only, every weight accounted for.

    Weights of a variant such as fp16 are computed with in float32, as all others.
    """
    config = read_json(folder / "config.json", "save_pretrained writes it")
    with laid_at(str(folder / "config.json")):
        kind = network_class(str(config.get("_class_name")))
    shapes = [shape for path in check_weights(folder, variant)[0] for shape in tensor_shapes(path)]
    with torch.random.fork_rng(devices=[]):  # building a network may draw from the global generator
        try:
            with laid_at(str(folder / "config.json")):
                _require_size(kind, config, shapes)
            # the way that saves memory patches nn.Module for the whole process: what another thread builds meanwhile,
            # an autoencoder say, has no storage
            network, loading = _all_float32(kind).from_pretrained(
                str(folder), use_safetensors=True, local_files_only=True, output_loading_info=True,
                low_cpu_mem_usage=False, variant=weights_variant(folder, variant), torch_dtype=torch.float32,
            )  # fmt: skip
            network.__class__ = kind
        except (MemoryError, SettingsError):
            raise
        except Exception as error:  # of nearly every kind, for values that the constructors of diffusers do not expect
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise SettingsError(f"{folder}: the {kind.__name__} cannot be loaded: {first}") from error
    wrong = [*loading["missing_keys"], *loading["unexpected_keys"], *loading["mismatched_keys"]]
    if wrong:
        raise SettingsError(f"{folder}: {len(wrong)} weights do not fit the configuration, such as {wrong[0]}")
    with laid_at(str(folder / "config.json")):
        require_known(config, type(network))
    return network.eval()


def _all_float32(kind: type[nn.Module]) -> type[nn.Module]:
    """The same network without a list of parts that stay in float32, for which diffusers insists on patching
    nn.Module."""
    return type(kind.__name__, (kind,), {"_keep_in_fp32_modules": None, "__module__": kind.__module__})


def _require_size(kind: type[nn.Module], config: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> None:
    """Raises SettingsError where a network of this configuration has far more than the files hold, before it is built.

    What is merely missing is named later; a number with a digit too many would take the machine's memory.
    """
    for key, value in config.items():
        counts = value if isinstance(value, list) else [value]
        if ("layers" in key or key == "count") and any(type(n) is int and n > len(shapes) for n in counts):
            raise SettingsError(f"{key} {value}: the files hold {len(shapes)} tensors")
    with torch.device("meta"):
        wanted = sum(parameter.numel() for parameter in kind.from_config(config).parameters())
    held = sum(math.prod(shape) for shape in shapes)
    if wanted > held + max(held, 10**7):
        raise SettingsError(f"a {kind.__name__} of this configuration has {wanted} weights, the files hold {held}")


__all__ = ["TeacherInfo", "described_denoiser", "inspect_teacher", "load_network", "load_teacher"]
