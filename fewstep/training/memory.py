"""What the networks of a run take of memory, by arithmetic from their parameters. Torch-free."""

from __future__ import annotations

from fewstep.util.config import Strict

PRECISION = "float32"
"""Of weights, gradients, moments and averages; `training.precision` is that of the computations only."""
_WIDTH = 4
_MOMENTS = 2  # of AdamW and of RAdam


class RoleMemory(Strict):
    """Bytes of one role's tensors, without activations and what a library allocates beside.

    trained: its parameters that are trained. average: the moving average, which the student alone has.
    """

    role: str
    trained: int
    weights: int
    gradients: int
    moments: int
    average: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.moments + self.average


def memory_of(role: str, frozen: int, trained: int, averaged: bool = False) -> RoleMemory:
    """Memory of a role with so many parameters that rest and that are trained."""
    once = _WIDTH * trained
    return RoleMemory(role=role, trained=trained, weights=_WIDTH * frozen + once, gradients=once,
                      moments=_MOMENTS * once, average=once if averaged else 0)  # fmt: skip


def memory_of_run(parameters: int, adapters: int) -> list[RoleMemory]:
    """The roles of a run whose networks are copies of a teacher of so many parameters.

    The teacher; the student, whole or with adapters of so many parameters; a network that is trained beside it, such as
    a fake score, both ways again. What a run holds is the teacher, one of each pair, and no second unless a term of its
    recipe brings it.
    """
    return [
        memory_of("teacher", parameters, 0),
        memory_of("student", 0, parameters, averaged=True),
        memory_of("student, LoRA", parameters, adapters, averaged=True),
        memory_of("fake score", 0, parameters),
        memory_of("fake score, LoRA", parameters, adapters),
    ]
