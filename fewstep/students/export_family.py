"""Students of recorded pipelines: the teacher's pipeline folder with the student's denoiser, or with its adapters."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import safe_open

from fewstep.diffusion.denoiser import Denoiser
from fewstep.networks.folding import fold_additions
from fewstep.networks.lora import has_lora
from fewstep.networks.lora_files import LORA_FILE, adapted_layers, save_lora
from fewstep.students.export_form import Form
from fewstep.students.pipelines import stock_pipeline
from fewstep.students.sampling_plan import plan_rows
from fewstep.students.stock_schedulers import stock_scheduler_of
from fewstep.students.student import Student
from fewstep.teachers.inspection import DESCRIPTION, TeacherInfo
from fewstep.teachers.linking import link_parts, part_digests
from fewstep.teachers.saving import description_of, save_network
from fewstep.util.errors import SettingsError
from fewstep.util.files import write_json

CODE = "pipeline.py"


def export_family_student(student: Student, folder: Path, teacher: TeacherInfo, form: Form) -> Form:
    """Write a student of a recorded family into an empty folder, the same bytes for the same weights, and return the
    form that it has: `pipeline` for `lora` where diffusers has no loader of adapters for this pipeline.

    teacher: the folder of its teacher, whose unchanged parts are linked. Raises SettingsError for a network of another
    class than the pipeline's, and for adapters beside other weights than the teacher's.
    """
    denoiser, family = student.denoiser, student.denoiser.family
    if form == "lora" and not has_loader(family.pipeline, type(denoiser.network)):
        form = "pipeline"
    extra: dict[str, Any] = {"role": "student", "export": form, "sampler": _pinned(student)}
    if form == "lora":
        _require_adapters(denoiser, teacher)
    else:
        denoiser = _of_the_pipelines_kind(fold_additions(denoiser), teacher)
    scheduler, plan = _scheduled(student, form)
    own = {"scheduler"} if scheduler is not None else set()  # else the plan steps; the teacher's tells the process
    rest = sorted(teacher.parts - {family.part, "scheduler"})
    if form == "network":
        index = link_parts(teacher, folder, without={*rest, family.part, *own}) | dict.fromkeys(rest, [None, None])
        index |= {"requires_safety_checker": False} if "safety_checker" in rest else {}
        extra["rest"] = part_digests(teacher, rest)
    else:
        index = link_parts(teacher, folder, without=own | ({family.part} if form == "pipeline" else set()))
    if form == "lora":
        kind = getattr(diffusers, family.pipeline)
        extra["lora"] = save_lora(denoiser.network, folder / LORA_FILE, kind, family.part)
    else:
        save_network(denoiser.network, folder / family.part)
    if scheduler is not None:
        scheduler.save_pretrained(folder / "scheduler")
        index["scheduler"] = ["diffusers", type(scheduler).__name__]
    shutil.copyfile(stock_pipeline.__file__, folder / CODE)
    name = f"{stock_pipeline.PREFIX}{family.pipeline}"
    write_json(folder / "model_index.json", {**index, "_class_name": [Path(CODE).stem, name], "plan": plan})
    write_json(folder / DESCRIPTION, description_of(denoiser, extra))
    return form


def has_loader(pipeline: str, network: type) -> bool:
    """Whether diffusers loads adapters into this pipeline, and into this class of its denoiser."""
    kind = getattr(diffusers, pipeline, None)
    whole = hasattr(kind, "load_lora_weights") and hasattr(kind, "save_lora_weights")
    return whole and hasattr(network, "load_lora_adapter")


def _pinned(student: Student) -> dict[str, Any]:
    """The sampler with its times written down, so that they stay what the student was trained at."""
    update = {"times": tuple(student.times().tolist()), "start": None}
    return student.sampler.model_copy(update=update).model_dump(mode="json")


def _scheduled(student: Student, form: Form) -> tuple[Any | None, dict[str, Any]]:
    """The stock scheduler that samples the student, None where there is none, and what pipeline.py needs to know."""
    denoiser, family, times = student.denoiser, student.denoiser.family, student.times()
    known = inspect.signature(getattr(diffusers, family.pipeline).__call__).parameters
    found = stock_scheduler_of(denoiser, student.sampler.kind, times, known)
    scheduler, told = found or (None, {"num_inference_steps": len(times)})
    told |= {"true_cfg_scale": 1.0, "guidance_scale": _scale(denoiser)}
    one = torch.ones(1, dtype=torch.float64)
    return scheduler, {
        "arguments": {**family.arguments, **{name: value for name, value in told.items() if name in known}},
        "steps": len(times), "kind": student.sampler.kind,
        "rows": [] if scheduler is not None else plan_rows(denoiser, times),
        "initial": float(denoiser.process.initial(one, float(times[0]))), "time_factor": family.time_factor,
        **({"time_offset": family.time_offset} if family.time_offset else {}),
        **({"still": True} if family.call.still is not None else {}),
        "lora": form == "lora",
    }  # fmt: skip


def _scale(denoiser: Denoiser) -> float:
    """What the pipeline is told of guidance: what means none to it, or the scale that the network embeds."""
    if denoiser.family.call.guidance is None:
        return denoiser.family.unguided
    return denoiser.family.call.guidance_scale if denoiser.default_scale is None else denoiser.default_scale


def _of_the_pipelines_kind(denoiser: Denoiser, teacher: TeacherInfo) -> Denoiser:
    """The denoiser. Raises SettingsError for a network that the teacher's pipeline does not sample with."""
    if type(denoiser.network).__name__ != teacher.network:
        raise SettingsError(
            f"the student's network is a {type(denoiser.network).__name__}; the pipeline {denoiser.family.pipeline} "
            f"samples with a {teacher.network}"
        )
    return denoiser


def _require_adapters(denoiser: Denoiser, teacher: TeacherInfo) -> None:
    """Raises SettingsError unless the denoiser is the teacher's, as its folder holds it, with adapters alone."""
    if not has_lora(denoiser.network) or denoiser.inputs:
        raise SettingsError("only adapters without further inputs leave as 'lora'", hint="export it as a pipeline")
    network = denoiser.network
    weights, adapted = network.state_dict(), adapted_layers(network)
    for path in teacher.weights:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                layer, _, what = name.rpartition(".")
                there = weights.get(f"{layer}.base_layer.{what}" if layer in adapted else name)
                if there is None or not torch.equal(there.cpu(), file.get_tensor(name).to(there.dtype)):
                    raise SettingsError(
                        f"{path}: {name} is not what the student's adapters were trained beside",
                        hint="export it as a pipeline",
                    )

