"""The append-only record of a registered model: who decided what about it, when, why, and on which figures.

One JSON line per entry, synced before anything is acted upon. What an intent ended in has the intent's id; what carries
out or rejects a pending decision names the decision in `closes`.
"""

from __future__ import annotations

import getpass
import json
import os
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from fewstep.util.config import Moment, Strict
from tasks.storage.documents import read_document
from tasks.tracking.redaction import redact

NAME = "record.jsonl"
OPENING = ("intent", "pending")  # what a later entry closes
Event = Literal["intent", "pending", "promoted", "rolled back", "refused", "rejected", "expired", "overtaken",
                "abandoned"]  # fmt: skip


class Entry(Strict):
    """One line of the record.

    Attributes:
        alias, former, to: the alias, the version number it pointed at (`from` in JSON; None: nothing), the number it
            points or would point at.
        when: UTC, ISO 8601.
        figures: the numbers that the decision rests on.
        becomes: of an intent, the event that it ends as (`as` in JSON): promoted or rolled back.
        closes: id of the pending decision that this carries out or ends.
        kind: of a refusal, the rule that refused.
        expires: of a pending decision, until when it can be made.
        weights: of a pending decision, the weights digest that it is about.
        found: of an abandoned intent, the number that the alias pointed at.
    """

    model_config = ConfigDict(populate_by_name=True)

    format: Literal[1] = 1
    event: Event
    id: str
    alias: str
    former: int | None = Field(alias="from")
    to: int
    when: Moment
    who: str
    why: str
    figures: dict[str, Any] = {}
    becomes: Event | None = Field(default=None, alias="as")
    closes: str | None = None
    kind: str | None = None
    expires: Moment | None = None
    weights: str | None = None
    found: int | None = None

    @model_validator(mode="after")
    def _a_decision_expires(self):
        if self.event == "pending" and self.expires is None:
            raise ValueError("a pending decision says until when it can be made (expires)")
        return self

    def to_dict(self) -> dict[str, Any]:
        """As it is written: the names of JSON, without the optional fields that are None."""
        data = self.model_dump(by_alias=True, exclude_none=True)
        return {**data, "from": self.former}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True)

    def ended_as(self, event: Event, **changes: Any) -> Entry:
        """The entry with which this intent ends: the same under its id, now."""
        return self.model_copy(update={"event": event, "when": now(), **changes})


def author() -> str:
    """Who is recorded: FEWSTEP_USER, else the account's name."""
    return os.environ.get("FEWSTEP_USER") or getpass.getuser()


def now() -> str:
    """This moment in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def new(event: Event, *, alias: str, former: int | None, to: int, who: str | None, why: str,
        figures: dict[str, Any] | None = None, **more: Any) -> Entry:  # fmt: skip
    """An entry with a new id, made now; secrets are taken out of `why`. `more`: further fields."""
    return Entry(event=event, id=uuid.uuid4().hex, alias=alias, former=former, to=to, when=now(), who=who or author(),
                 why=redact(why), figures=figures or {}, **more)  # fmt: skip


def append(folder: Path, entry: Entry) -> None:
    """Writes one line and syncs it. Callers hold the model's lock."""
    with open(folder / NAME, "a+b") as file:
        file.seek(0)
        content = file.read()
        if content and not content.endswith(b"\n"):  # a line torn by a power cut was never acted upon
            file.truncate(content.rfind(b"\n") + 1)
        file.write(entry.to_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read(folder: Path) -> list[Entry]:
    """All entries, oldest first; none where there is no record.

    Raises DataDiffers naming file, line and field where the record was damaged.
    """
    path = folder / NAME
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    return [read_document(Entry, line, f"{path}, line {number}") for number, line in enumerate(lines, 1)
            if line.endswith(b"\n")]  # fmt: skip


def closing(entries: list[Entry], identity: str) -> Entry | None:
    """The entry that closes the pending decision with this id, if any; an intent that was abandoned closes nothing."""
    return next((entry for entry in _in_force(entries) if entry.closes == identity), None)


def open_entries(entries: list[Entry], event: Event) -> list[Entry]:
    """Entries of this `event` that nothing has closed."""
    closed = {entry.closes for entry in _in_force(entries)}
    closed |= {entry.id for entry in entries if entry.event not in OPENING}
    return [entry for entry in entries if entry.event == event and entry.id not in closed]


def _in_force(entries: list[Entry]) -> list[Entry]:
    abandoned = {entry.id for entry in entries if entry.event == "abandoned"}
    return [entry for entry in entries if entry.id not in abandoned]
