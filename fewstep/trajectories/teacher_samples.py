"""The teacher's samples of a trajectory set as data, where there are none of the user's own."""

from __future__ import annotations

from torch import Tensor

from fewstep.diffusion.randomness import derive
from fewstep.trajectories.set_reader import TrajectorySet


class TeacherSamples:
    """A set's samples without their noise, in an order that is not that of the pairs, which a round may read beside
    them."""

    def __init__(self, made: TrajectorySet):
        self.made = made

    def __len__(self) -> int:
        return self.made.count

    def batch(self, seed: int, position: int, size: int) -> tuple[Tensor, Tensor | None]:
        """Samples `position … position + size − 1` of an endless keyed order: x (size, *shape) float32, row of the
        condition (size,) int64 or None. Raises CorruptData."""
        found = self.made.batch(derive(seed, "teacher-samples"), position, size)
        return found["x"], found["condition"]
