"""A student as a diffusers pipeline folder, and back.

Where a stock pipeline samples it faithfully the folder holds one; otherwise a self-contained pipeline.py comes with it.
Our own loader reads JSON and safetensors and never executes what lies in the folder.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch

from fewstep.diffusion.adapters import DiffusersAdapter, Timestep
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.processes import VariancePreserving
from fewstep.networks import routed
from fewstep.networks.folding import fold_additions
from fewstep.networks.guide_network import GuidedNetwork
from fewstep.networks.lora_files import LORA_FILE, load_lora
from fewstep.networks.routed import RoutedUNet
from fewstep.students.export_family import export_family_student
from fewstep.students.export_form import Form
from fewstep.students.pipelines import pipeline
from fewstep.students.sampler_settings import SamplerSettings
from fewstep.students.sampling_plan import plan_rows
from fewstep.students.student import RENOISING, Student
from fewstep.teachers.inspection import DESCRIPTION, GUIDE, inspect_teacher
from fewstep.teachers.loading import described_denoiser, load_network
from fewstep.teachers.saving import save_network, write_pipeline
from fewstep.teachers.schedulers import chain, stock_scheduler
from fewstep.util.config import parse
from fewstep.util.errors import SettingsError
from fewstep.util.files import write_json

CODE, ROUTED = "pipeline.py", "routed.py"
_OFFERED = (1, 2, 4, 8)  # numbers of steps that a pipeline.py offers beside the student's own


def export_student(
    student: Student, folder: str | os.PathLike, form: Form = "pipeline", teacher: str | os.PathLike | None = None
) -> Form:
    """Write a student as a pipeline folder of safetensors and JSON, the same bytes for the same weights; returns the
    form that it has.

    A student of a recorded family becomes its teacher's pipeline with the student's denoiser (`export_family_student`),
    from the `teacher`'s folder. One of a UNet2DModel is a whole pipeline in each form: a variance-preserving
    `ode` student (and any of one step) a ConsistencyModelPipeline with first-order DPM-Solver++, which is DDIM on any
    number of steps: `pipe(n, class_labels=…, num_inference_steps=k)`. Any other gets a pipeline.py for
    `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`, and several students in one model the code of
    their network as well.
    Adapters are merged, and further inputs folded into the weights at the values the student is sampled at.
    A network with a guide has it as a second part of the folder. Raises SettingsError for a network that no pipeline
    samples, and for a recorded family without its teacher's folder.
    """
    if student.denoiser.family is not None:
        if teacher is None:
            raise SettingsError("a student of a pipeline is exported beside its teacher's folder; give it")
        return export_family_student(student, Path(folder), inspect_teacher(teacher), form)
    folder = Path(folder)
    student = Student(fold_additions(student.denoiser), student.sampler)
    denoiser, sampler = student.denoiser, student.sampler
    if not isinstance(denoiser.adapter, DiffusersAdapter):
        raise SettingsError(f"a {type(denoiser.network).__name__} cannot be exported as a diffusers pipeline")
    extra = {"role": "student", "sampler": sampler.model_dump(mode="json")}
    stock = is_stock(student)
    scheduler = _first_order(student) if stock else _component(denoiser)
    write_pipeline(denoiser, folder, scheduler, extra)
    if isinstance(denoiser.network, GuidedNetwork):
        save_network(denoiser.network.guide, folder / GUIDE)
    if not stock:
        shutil.copyfile(pipeline.__file__, folder / CODE)
        index = json.loads((folder / "model_index.json").read_bytes())
        index["_class_name"] = [Path(CODE).stem, "FewstepPipeline"]
        if (folder / GUIDE).exists():
            index[GUIDE] = ["diffusers", "UNet2DModel"]
        if isinstance(denoiser.network, RoutedUNet):
            shutil.copyfile(routed.__file__, folder / "unet" / ROUTED)
            index["unet"] = [Path(ROUTED).stem, RoutedUNet.__name__]
        write_json(folder / "model_index.json", {**index, "plan": _plan(student)})
    return "pipeline"


def load_student(folder: str | os.PathLike) -> Student:
    """The student in a folder that `export_student` wrote, in evaluation mode on the CPU.

    Raises SettingsError, naming the path, for a folder that is no such thing, incomplete or unsafe.
    """
    info = inspect_teacher(folder)
    if info.description is None or info.description.get("role") != "student":
        raise SettingsError(f"{Path(folder) / DESCRIPTION}: this folder holds no exported student")
    source = str(Path(folder) / DESCRIPTION)
    sampler = parse(SamplerSettings, info.description.get("sampler"), f"{source}: sampler")
    network = load_network(info.folder / info.part)
    if GUIDE in info.parts:
        network = GuidedNetwork(network, load_network(info.folder / GUIDE))
    if adapters := info.description.get("lora"):
        network = load_lora(network, info.folder / LORA_FILE, info.part, adapters)
    return Student(described_denoiser(info, network), sampler).requires_grad_(False).eval()


def is_stock(student: Student) -> bool:
    """Whether a stock diffusers pipeline samples this student as `Student.sample` does."""
    denoiser, sampler = student.denoiser, student.sampler
    return (
        isinstance(denoiser.process, VariancePreserving)
        and not isinstance(denoiser.network, GuidedNetwork | RoutedUNet)
        and denoiser.adapter == Timestep(denoiser.process.timesteps - 1)
        and denoiser.prediction_type != "flow_prediction"
        and sampler.times is None
        and sampler.spacing == "process"
        and (sampler.kind == "ode" or sampler.steps == 1)
    )


def _first_order(student: Student) -> Any:
    process = student.denoiser.process
    timesteps = round(student.start * (process.timesteps - 1)) + 1
    return diffusers.DPMSolverMultistepScheduler(
        **chain(process, timesteps),
        prediction_type=student.denoiser.prediction_type,
        solver_order=1,
        timestep_spacing="trailing",
    )


def _component(denoiser: Denoiser) -> Any:
    """The scheduler beside a pipeline.py: it documents the process, the plan does the sampling."""
    if isinstance(denoiser.process, VariancePreserving) and denoiser.prediction_type == "flow_prediction":
        return diffusers.DDIMScheduler(**chain(denoiser.process), clip_sample=False)
    return stock_scheduler(denoiser.process, denoiser.prediction_type, denoiser.adapter)


def _plan(student: Student) -> dict[str, Any]:
    denoiser, sampler = student.denoiser, student.sampler
    one = torch.ones(1, dtype=torch.float64)
    return {
        "kind": sampler.kind,
        "steps": sampler.steps,
        "purpose": RENOISING,
        "sample_shape": list(denoiser.sample_shape),
        "null_class": denoiser.null_class,
        "initial": {str(steps): float(denoiser.process.initial(one, float(student.times(steps)[0])))
                    for steps in _steps(student)},
        "grids": {str(steps): plan_rows(denoiser, student.times(steps)) for steps in _steps(student)},
    }  # fmt: skip


def _steps(student: Student) -> list[int]:
    return sorted({student.sampler.steps, *_OFFERED})
