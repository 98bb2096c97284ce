"""What the stage `register` says of the version it made: the content of data/registration/registration.json."""

from __future__ import annotations

from pathlib import Path

from fewstep.util.config import Strict

FILE = "registration.json"


class RegistrationResult(Strict):
    """A registered version and whether it was promoted.

    Attributes:
        model: name of the registered model.
        version: number of the version.
        weights: tree digest of the exported student.
        evaluation: digest of the evaluation it was judged by.
        made: whether this run made the version; False when an equal one was registered already.
        promoted: whether it became champion.
        policy: the setting `register.promote` that decided.
        reasons: why it was not promoted.
    """

    model: str
    version: int
    weights: str
    evaluation: str
    made: bool
    promoted: bool
    policy: str
    reasons: list[str]


def load(data: Path) -> RegistrationResult | None:
    """The result below the folder `data` of a checkout; None where no version was registered from it."""
    path = data / "registration" / FILE
    return RegistrationResult.model_validate_json(path.read_bytes()) if path.exists() else None
