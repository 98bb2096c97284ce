"""The teacher's outputs as verified, resumable, content-addressed sets: what a teacher made of which noise.

:func:`make_set` makes a set (or completes, or extends one), :func:`open_set` reads it. A set of N samples of shape
(C, H, W) is a folder of shards of records; a record is one teacher batch. The noise of sample i is a function of
(seed, i) and is not stored; see :mod:`fewstep.diffusion.randomness`. Importing this package alone imports no torch.
"""

from typing import TYPE_CHECKING

from fewstep.util.lazy_names import lazy_names

if TYPE_CHECKING:
    from fewstep.trajectories.generate import make_set
    from fewstep.trajectories.set_identity import set_key
    from fewstep.trajectories.set_plan import SetPlan, plan_set
    from fewstep.trajectories.set_reader import TrajectorySet, open_set
    from fewstep.trajectories.set_writer import SetWriter
    from fewstep.trajectories.trajectory_settings import TrajectorySettings

_HOMES = {
    "SetPlan": "fewstep.trajectories.set_plan",
    "SetWriter": "fewstep.trajectories.set_writer",
    "TrajectorySet": "fewstep.trajectories.set_reader",
    "TrajectorySettings": "fewstep.trajectories.trajectory_settings",
    "make_set": "fewstep.trajectories.generate",
    "open_set": "fewstep.trajectories.set_reader",
    "plan_set": "fewstep.trajectories.set_plan",
    "set_key": "fewstep.trajectories.set_identity",
}
__all__ = [
    "SetPlan",
    "SetWriter",
    "TrajectorySet",
    "TrajectorySettings",
    "make_set",
    "open_set",
    "plan_set",
    "set_key",
]
__getattr__ = lazy_names(__name__, _HOMES)
