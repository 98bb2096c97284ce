"""What a saved pipeline is, as far as a call of it tells: states, conditions, guidance, and the recipes that it can
serve. Its denoiser stays without weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from fewstep.diffusion.denoiser import Denoiser
from fewstep.families.codec import Codec
from fewstep.families.family import Family
from fewstep.families.recorded_conditions import table_of
from fewstep.families.recorded_family import record_family
from fewstep.networks.extra_inputs import embeds_scale
from fewstep.networks.lora import adapter_parameters
from fewstep.recipes import load_recipe, recipe_names
from fewstep.teachers.inspection import TeacherInfo
from fewstep.teachers.loading import require_whole, teacher_of
from fewstep.teachers.pipeline_loading import load_pipeline, probe_network
from fewstep.training.memory import memory_of_run
from fewstep.training.recipe_fit import require_recipe
from fewstep.util.errors import SettingsError
from fewstep.util.quiet_libraries import quiet_libraries
from tasks.data.teacher_facts import RecordedFacts, RefusedRecipe, TensorSummary

_PROMPT = "a red apple"


def record(info: TeacherInfo, arguments: Mapping[str, Any], rank: int) -> RecordedFacts:
    """The facts of an inspected folder; rank: of the adapters that are counted.

    Raises SettingsError for a folder with a student's adapters only, and for a pipeline that cannot be loaded or whose
    calls cannot be replayed.
    """
    require_whole(info)
    network = probe_network(info.folder / info.part, info.network)
    with quiet_libraries():
        pipe = load_pipeline(info) if info.recorded else None
        recorded = record_family(pipe, arguments) if info.recorded and info.description is None else None
        teacher = teacher_of(info, network, recorded)
        family = teacher.family
        if family is not None and family.fields:
            teacher.take(table_of(pipe, family, [_PROMPT]))
        sample = tuple(teacher.sample_shape) if family is None else Codec(pipe, family).sample_shape
    fit, refused = _recipes(teacher)
    adapters = adapter_parameters(network, rank)
    return RecordedFacts(
        arguments={} if family is None else dict(family.arguments),
        images=() if family is None or family.images is None else family.images.names,
        state=_tensor("state", tuple(teacher.sample_shape), "float32"), sample=sample,
        fields=_fields(family), null=teacher.null_class is not None, guidance=_form(teacher, family),
        embedded=_embedded(teacher),
        shift=family.shift if family is not None and info.process == "flow" else None,
        recipes=fit, refused=refused, rank=rank, adapters=adapters,
        memory=tuple(memory_of_run(info.parameters, adapters)),
    )  # fmt: skip


def _form(teacher: Denoiser, family: Family | None) -> Any:
    """How both branches of guidance are evaluated; a denoiser that no pipeline guides is called once for both."""
    if family is not None:
        return family.guidance
    return None if teacher.null_class is None else "joint"


def _embedded(teacher: Denoiser) -> float | None:
    """The guidance scale that the network is given where nobody says one."""
    if teacher.default_scale is not None or not embeds_scale(teacher):
        return teacher.default_scale
    return teacher.adapter.call.guidance_scale


def _fields(family: Family | None) -> tuple[TensorSummary, ...]:
    if family is None:
        return ()
    return tuple(_tensor(name, tuple(one.shape), one.dtype) for name, one in family.fields.items())


def _tensor(name: str, shape: tuple[int, ...], dtype: str) -> TensorSummary:
    kind: torch.dtype = getattr(torch, dtype)
    types = (torch.float32, torch.bfloat16) if kind.is_floating_point else (kind, kind)
    single, half = (one.itemsize * math.prod(shape) for one in types)
    return TensorSummary(name=name, shape=shape, dtype=dtype, float32=single, bfloat16=half)


def _recipes(teacher: Denoiser) -> tuple[tuple[str, ...], tuple[RefusedRecipe, ...]]:
    """The recipes that the teacher serves, and why not the others."""
    fit, refused = [], []
    for name in recipe_names():
        try:
            require_recipe(load_recipe(name), teacher)
        except SettingsError as error:
            refused.append(RefusedRecipe(name=name, reason=str(error.__cause__ or error)))
        else:
            fit.append(name)
    return tuple(fit), tuple(refused)
