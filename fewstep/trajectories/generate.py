"""A whole set in one call."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from fewstep.diffusion.denoiser import Denoiser
from fewstep.trajectories import set_description
from fewstep.trajectories.set_plan import SetPlan, plan_set
from fewstep.trajectories.set_reader import TrajectorySet, open_set
from fewstep.trajectories.set_writer import SetWriter
from fewstep.trajectories.teacher_runtime import prepare
from fewstep.trajectories.trajectory_settings import TrajectorySettings
from fewstep.util.cores import cores
from fewstep.util.errors import SettingsError
from fewstep.util.files import restore_aside, swap_folders
from fewstep.util.workers import Execute, in_threads


def make_set(
    denoiser: Denoiser,
    settings: TrajectorySettings,
    folder: Path | str,
    *,
    seed: int,
    teacher_digest: str,
    num_classes: int | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
    execute: Execute | None = None,
) -> TrajectorySet:
    """Make, complete or extend the set in ``folder``; nothing is made that is there already.

    Work in progress lies beside ``folder`` (same name with ``.partial-…``), so a kill at any instant leaves the former
    set or the new one, and the next call continues.

    Args:
        denoiser: the teacher.
        settings: of the set.
        folder: of the finished set.
        seed: of noise and conditions.
        teacher_digest: hash of the teacher's weights and configuration.
        num_classes: classes to draw conditions from; default: the teacher's.
        device: where the teacher is run; default: where it lies.
        progress: called with (samples done, samples in all).
        execute: runs a function over shard numbers, in any order and number at once; default: on a CPU one worker per
            core, elsewhere one after the other. It changes no byte.

    Returns:
        The opened set, of exactly ``settings.count`` samples; records of a set there with equal content are reused.

    Raises:
        SettingsError: ``denoiser`` cannot make this, or ``folder`` holds something else than a set.
        NonFinite, DiskFull, CorruptData: as in :class:`~fewstep.trajectories.set_writer.SetWriter`.
    """
    folder = Path(folder)
    plan = plan_set(
        denoiser, settings, seed=seed, teacher_digest=teacher_digest, num_classes=num_classes, device=device
    )
    work = folder.with_name(f"{folder.name}.partial-{plan.id}")
    aside = folder.with_name(f"{folder.name}.old")
    if not (work / "out" / set_description.NAME).exists():
        restore_aside(folder, aside)  # killed between the two renames below, and the new set was lost since
    if folder.exists():
        if any(folder.iterdir()) and not (folder / set_description.NAME).is_file():
            raise SettingsError(f"{folder}: holds something else than a trajectory set; it is left alone")
        if _is(folder, plan):
            _clear(work, aside)
            return open_set(folder)
    if not (work / "out" / set_description.NAME).exists():
        _complete(denoiser, plan, work, folder if folder.exists() else aside, progress, execute)
    swap_folders(work / "out", folder, aside)
    _clear(*folder.parent.glob(f"{folder.name}.partial-*"), aside)
    return open_set(folder)


def _is(folder: Path, plan: SetPlan) -> bool:
    if not (folder / set_description.NAME).is_file():
        return False
    content = set_description.read(folder)
    return content["fields"] == plan.fields and content["count"] == plan.settings.count


def _clear(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _complete(
    denoiser: Denoiser,
    plan: SetPlan,
    work: Path,
    previous: Path,
    progress: Callable[[int, int], None] | None,
    execute: Execute | None,
) -> None:
    writer = SetWriter(work / "out", work / "scratch", plan, previous)
    writer.sweep()
    total = plan.records * plan.record_size
    done = total - len(writer.missing()) * plan.record_size
    lock = threading.Lock()

    def on_record(samples: int) -> None:
        nonlocal done
        with lock:
            done += samples
            if progress:
                progress(min(done, plan.settings.count), plan.settings.count)

    teacher = prepare(denoiser, plan)

    def work_on(shard: int) -> None:
        writer.make_shard(teacher, shard, on_record)

    shards = writer.missing_shards()
    workers = cores() if plan.device.type == "cpu" else 1
    (execute or in_threads(workers))(work_on, shards)
    writer.finish()
