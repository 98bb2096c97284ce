"""Settings of the roles that terms bring: networks, or heads alone, that are trained beside the student. Torch-free."""

from typing import Literal

from fewstep.students.student_settings import LoraSettings
from fewstep.util.config import Strict
from fewstep.util.number_types import Positive


class TurnSettings(Strict):
    """What is trained beside the student: of itself heads only, which stand with their term."""

    lr_scale: Positive = 1.0
    """Its learning rate over the student's."""


class RoleSettings(TurnSettings):
    """A network trained beside the student."""

    init: Literal["teacher", "student", "previous"] = "teacher"
    """What it starts from; previous: the network of this role at the end of the round before."""
    lora: LoraSettings | None = None
    """Train adapters only."""
