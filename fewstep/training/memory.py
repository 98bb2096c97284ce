"""What the networks of a run take of memory, by arithmetic from their parameters. Torch-free."""

from __future__ import annotations

from fewstep.objectives.role_settings import RoleSettings
from fewstep.recipes import Recipe
from fewstep.util.config import Strict

PRECISION = "float32"
"""Of weights, gradients, moments and averages; `training.precision` is that of the computations only."""
_WIDTH = 4
_MOMENTS = 2  # of AdamW and of RAdam
BLOCK_8BIT = 256
"""Numbers of a moment in 8 bits that share a scale, in float32."""
WIDTH_8BIT = 1 + _WIDTH / BLOCK_8BIT
"""Bytes of such a number, its share of the scale with it."""


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


class RoundMemory(Strict):
    """Bytes of a round on its device at the moment when it takes most.

    roles: by role; what several share stands with the first. turn: the role in whose turn the most is taken: of all
    gradients its own are there then. activations: what the step takes beside them. other: what rests beside the roles,
    such as students of earlier rounds. apart: what lies on the CPU where the device is a GPU. checkpoint: the copy of
    the state in the host's memory from which checkpoints are written, where it fits there. shards: the same on each of
    several devices that hold rows of every network, where there are several; what is whole for the time of a block's
    call is among `other`.
    """

    round: int
    roles: tuple[RoleMemory, ...]
    turn: str
    activations: int
    other: int
    apart: int
    checkpoint: int
    shards: RoundMemory | None = None

    @property
    def kinds(self) -> dict[str, int]:
        """Bytes on the device by kind; their sum is the round's."""
        return {
            "weights": sum(one.weights for one in self.roles),
            "gradients": sum(one.gradients for one in self.roles if one.role == self.turn),
            "moments": sum(one.moments for one in self.roles), "average": sum(one.average for one in self.roles),
            "activations": self.activations, "other": self.other,
        }  # fmt: skip

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.kinds.values())


def memory_of(role: str, frozen: int, trained: int, averaged: bool = False, moment: float = _WIDTH) -> RoleMemory:
    """Memory of a role with so many parameters that rest and that are trained. moment: bytes of a number of it."""
    once = _WIDTH * trained
    return RoleMemory(role=role, trained=trained, weights=_WIDTH * frozen + once, gradients=once,
                      moments=round(_MOMENTS * moment * trained), average=once if averaged else 0)  # fmt: skip


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


def memory_of_networks(recipe: Recipe, parameters: int, apart: bool = False) -> int:
    """Bytes on the device of a run's networks, copies of a teacher of so many parameters, in the round that takes most.

    Weights, moments, the average unless it lies `apart`, and the gradients of one role at a time. Adapters, heads and
    further copies are left out, and a smaller student counts as the teacher.
    """
    resting = parameters * (2 if recipe.training.frozen == "bfloat16" else _WIDTH)
    moment = _WIDTH if recipe.optimiser.moments == "float32" else WIDTH_8BIT
    whole = [memory_of("student", 0, parameters, not apart, moment)] if recipe.student.lora is None else []
    found = []
    for own in recipe.rounds:
        beside = [memory_of(role, 0, parameters, moment=moment) for role, settings in own.roles.items()
                  if isinstance(settings, RoleSettings) and settings.lora is None]  # fmt: skip
        trained = [*whole, *beside]
        found.append(resting + sum(one.total - one.gradients for one in trained)
                     + max((one.gradients for one in trained), default=0))  # fmt: skip
    return max(found)
