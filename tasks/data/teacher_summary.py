"""What a saved pipeline is, as `fewstep inspect` tells it: read from its files' headers alone. Torch-free."""

from __future__ import annotations

import os
from pathlib import Path

from fewstep.students.student_settings import LoraSettings
from fewstep.teachers.inspection import GUIDE, UNUSED, TeacherInfo, inspect_teacher
from fewstep.teachers.weight_files import check_weights, read_json
from fewstep.util.errors import SettingsError
from tasks.config.schema import Encode
from tasks.data.teacher_facts import PartSummary, TeacherSummary

# torch is imported where a pipeline is loaded: headers are read without it


def summarise(folder: str | os.PathLike, encode: Encode | None = None, variant: str | None = None,
              rank: int | None = None, quick: bool = False) -> TeacherSummary:  # fmt: skip
    """What the pipeline in `folder` is.

    encode: arguments of its call, as the encode stage has them. variant: of the weights. rank: of LoRA; None: that of
    recipes that say nothing. quick: read headers only and load nothing; else the parts beside the denoiser are loaded
    and one state is decoded.
    Raises SettingsError for a folder that is no teacher, as `inspect_teacher` and `record_family` do, and for arguments
    where no call is recorded.
    """
    info, chosen = inspect_teacher(folder, variant), (encode or Encode()).of_call
    if chosen and (quick or not info.recorded or info.description is not None):
        why = "only headers are read" if quick else "its states and conditions are known without a call"
        raise SettingsError(f"{info.folder}: {', '.join(chosen)}: {why}", hint="leave these options out")
    recorded = None
    if not quick:
        from tasks.data.teacher_recording import record  # loads torch

        recorded = record(info, chosen, LoraSettings().rank if rank is None else rank)
    return TeacherSummary(
        folder=str(info.folder), pipeline=info.pipeline, part=info.part, network=info.network,
        parameters=info.parameters, scheduler=info.scheduler, process=info.process, prediction=info.prediction_type,
        textual=info.textual, classes=info.num_classes, parts=_parts(info), recorded=recorded,
    )  # fmt: skip


def _parts(info: TeacherInfo) -> tuple[PartSummary, ...]:
    """Those with weights, the denoiser first."""
    index = read_json(info.folder / "model_index.json", "every saved diffusers pipeline has this file")
    first = {info.part: 0, GUIDE: 1}
    found = []
    for name in sorted(info.parts - UNUSED, key=lambda name: (first.get(name, 2), name)):
        folder: Path = info.folder / name
        if (folder / "config.json").is_file():
            files, parameters = check_weights(folder, info.variant)
            size = sum(file.stat().st_size for file in files)
            found.append(PartSummary(name=name, kind=str(index[name][1]), parameters=parameters, bytes=size))
    return tuple(found)
