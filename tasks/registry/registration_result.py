"""What the registration of a student returns: the document data/registration/registration.json. Imports no MLflow."""

from __future__ import annotations

from typing import Literal

from fewstep.util.config import Strict

NAME = "registration.json"


class RegistrationResult(Strict):
    """The version that the student became, and the decision about its promotion.

    Attributes:
        weights: tree digest of the exported student.
        evaluation: digest of the evaluation's manifest.
        made: whether this run made or completed the version; False where it was there already.
        policy: rule by which promotion was decided: never, first or gated.
        reasons: why it was not promoted.
    """

    format: Literal[1] = 1
    model: str
    version: int
    weights: str
    evaluation: str
    made: bool
    promoted: bool
    policy: str
    reasons: tuple[str, ...] = ()
