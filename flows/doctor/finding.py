"""The result of one check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """What a check says.

    Attributes:
        topic: in a word or two.
        level: `ok`, `warning` (a run works, but) or `error` (a run would fail).
        text: what was seen.
        mend: how to mend it, as a command where there is one.
    """

    topic: str
    level: Literal["ok", "warning", "error"]
    text: str
    mend: str | None = None
