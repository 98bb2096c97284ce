"""The teacher's outputs as verified, resumable, content-addressed sets: what a teacher made of which noise.

:func:`make_set` makes a set (or completes, or extends one), :func:`open_set` reads it. A set of N samples of shape
(C, H, W) is a folder of shards of records; a record is one teacher batch. The noise of sample i is a function of
(seed, i) and is not stored; see :mod:`fewstep.randomness`.
"""

from fewstep.trajectories.key import backend, set_key
from fewstep.trajectories.make import make_set
from fewstep.trajectories.plan import SetPlan, plan_set
from fewstep.trajectories.reading import TrajectorySet, open_set
from fewstep.trajectories.settings import TrajectorySettings
from fewstep.trajectories.writing import SetWriter

__all__ = [
    "SetPlan",
    "SetWriter",
    "TrajectorySet",
    "TrajectorySettings",
    "backend",
    "make_set",
    "open_set",
    "plan_set",
    "set_key",
]
