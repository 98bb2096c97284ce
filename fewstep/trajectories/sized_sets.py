"""Trajectory sets of a teacher that makes samples of several sizes: one set for each, side by side in one folder."""

from __future__ import annotations

from pathlib import Path

from fewstep.data.sized import FOLDER, Sized
from fewstep.diffusion.denoiser import Denoiser
from fewstep.trajectories import set_description
from fewstep.trajectories.set_reader import TrajectorySet, open_set
from fewstep.trajectories.trajectory_settings import TrajectorySettings


def settings_by_size(denoiser: Denoiser, settings: TrajectorySettings) -> dict[int, TrajectorySettings]:
    """By number of size the settings of its set: `settings`, their count shared in proportion to the conditions that
    are trained on; a size without any has no set."""
    further = denoiser.family.sizes if denoiser.family is not None else ()
    rows = [denoiser.sized(k).trained_rows for k in range(len(further) + 1)]
    weights = [1 if own is None else len(own) for own in rows]
    counts = {k: max(1, round(settings.count * weight / sum(weights))) for k, weight in enumerate(weights) if weight}
    if not further:
        return {0: settings}
    return {k: settings.model_copy(update={"count": count}) for k, count in counts.items()}


def open_sets(folder: Path) -> TrajectorySet | Sized[TrajectorySet]:
    """The finished set in a folder, or its sets by size; see `open_set`."""
    own, found = open_set(folder), {}
    for path in (folder / FOLDER).glob(f"*/{set_description.NAME}"):
        found[int(path.parent.name)] = open_set(path.parent)
    return Sized([own, *(found.get(k) for k in range(1, max(found) + 1))]) if found else own
