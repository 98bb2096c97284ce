"""What of this machine a stage beside another one can have."""

from __future__ import annotations

from dataclasses import dataclass, field

from fewstep.util.cores import cores
from flows.executors.visible_gpus import visible_gpus
from tasks.config.schema import Compute


@dataclass(frozen=True)
class LeftOver:
    """environment: of the stage's process, beside this one's. processes: that share a training batch there."""

    processes: int | None
    environment: dict[str, str] = field(default_factory=dict)


def left_over(compute: Compute) -> LeftOver | None:
    """The GPUs that the processes of a training leave free; None: stages go one after the other.

    By `side_by_side: true` the cores that they leave free where there are no GPUs, and all where nothing is free.
    """
    if compute.side_by_side is False:
        return None
    gpus = visible_gpus()
    if not gpus and not compute.side_by_side:   # a core that is left free may be meant for others
        return None
    places = len(gpus) or cores()
    taken = min(compute.processes or places, places)
    if taken == places:
        return LeftOver(compute.processes) if compute.side_by_side else None
    return LeftOver(places - taken, {"CUDA_VISIBLE_DEVICES": ",".join(gpus[taken:])} if gpus else {})
