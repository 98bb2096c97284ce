"""What is said before a training that leaves devices idle, or whose first process has none."""

from __future__ import annotations

import math
from pathlib import Path

from fewstep.teachers.inspection import inspect_teacher
from tasks.config.advice import LARGE
from tasks.config.outside import outside_paths
from tasks.config.schema import Compute, Settings
from tasks.engine import graph
from tasks.engine.shared_unit import layout
from tasks.engine.stage_key import resolve
from tasks.stages.base import Stage
from tasks.stages.distill import DistillSettings
from tasks.stages.teacher import TrainedTeacher

_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
PAGE = "docs/how-to/machines.md"


def gpus() -> int:
    """Of this host that this process may use; torch is loaded only where there may be some."""
    if not any(Path(driver).exists() for driver in _DRIVERS):
        return 0
    import torch

    return torch.cuda.device_count()


def said(root: Path, settings: Settings) -> dict[str, list[str]]:
    """What is to be said of each stage that trains, by its name."""
    found = {stage.name: said_of(stage, root, settings) for stage in graph.STAGES}
    return {name: texts for name, texts in found.items() if texts}


def said_of(stage: Stage, root: Path, settings: Settings) -> list[str]:
    """What is to be said of a stage before it works."""
    own = resolve(stage, settings, root)
    match own:
        case TrainedTeacher():
            batch, passes = own.batch, 1
        case DistillSettings():
            batch, passes = own.recipe.training.batch, own.recipe.training.accumulate
        case _:
            return []
    here = gpus()
    texts = [_idle(stage.name, stage.parts(own), batch, passes, settings.compute, here), None]
    given = outside_paths(settings, root)["teacher"]
    if not here and given is not None and inspect_teacher(given, settings.teacher.variant).parameters >= LARGE:
        texts[1] = _elsewhere(stage.name, settings.compute)
    return [text for text in texts if text is not None]


def _idle(stage: str, parts: int, batch: int, passes: int, compute: Compute, here: int) -> str | None:
    """Devices that are there for it, and which it has no work for."""
    nodes, room = compute.nodes, compute.processes or here or 1
    if nodes * room == 1:
        return None
    used = math.prod(layout(parts, nodes, room))
    if used == nodes * room:
        return None
    places = f"{nodes * room} {'GPUs' if here else 'processes'}" + (f" of {nodes} nodes" if nodes > 1 else "")
    better = next((more for more in range(nodes * room, used, -1)
                   if batch % more == 0 and math.prod(layout(more, nodes, room)) == more), None)  # fmt: skip
    if better is None:
        how = f"a batch of another size (now {batch}) can be shared by more"
    else:
        fewer = max(1, passes * parts // better)    # as many samples at a time as before
        fewer = fewer if batch % (better * fewer) == 0 else 1
        beside = f" with {stage}.accumulate={fewer}" if fewer != passes else ""
        how = f"{stage}.parts={better}{beside} has {better} of them share it, which makes another result by another key"
    return (f"'{stage}' trains on {used} of the {places} that compute has: its batch has {parts} "
            f"part{'s' if parts > 1 else ''} ({stage}.parts); {how}")


def _elsewhere(stage: str, compute: Compute) -> str | None:
    """That a training is where the run is, and not where units are done."""
    if (compute.on or "local").partition(":")[0] in ("local", "processes"):
        return None
    return (f"'{stage}' trains on this host, which has no GPU: compute.on ({compute.on}) gives units to others, while "
            f"the first process of a training is the run's own; start the run itself as a job where GPUs are ({PAGE})")
