"""The append-only record of a registered model: who decided what about it, when, why, and on which figures.

Entries, and what follows from their order. What an intent ended in has the intent's id; what carries out or rejects a
pending decision names the decision in `closes`. Where they are written: tasks.registry.record.
"""

from __future__ import annotations

import getpass
import json
import os
import uuid
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from fewstep.util.config import Moment, Strict
from fewstep.util.errors import FewstepError
from tasks.tracking.redaction import redact

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


def closing(entries: list[Entry], identity: str) -> Entry | None:
    """The entry that closes the pending decision with this id, if any; an intent that was abandoned closes nothing."""
    return next((entry for entry in _in_force(entries) if entry.closes == identity), None)


def open_entries(entries: list[Entry], event: Event) -> list[Entry]:
    """Entries of this `event` that nothing has closed."""
    closed = {entry.closes for entry in _in_force(entries)}
    closed |= {entry.id for entry in entries if entry.event not in OPENING}
    return [entry for entry in entries if entry.event == event and entry.id not in closed]


def waiting(entries: list[Entry]) -> list[Entry]:
    """Pending decisions that a person can still make, oldest first."""
    return [entry for entry in open_entries(entries, "pending") if not expired(entry)]


def expired(entry: Entry) -> bool:
    """Whether the time in which this pending decision can be made is over."""
    return datetime.now(UTC) > datetime.fromisoformat(entry.expires)


def still_open(entries: list[Entry], identity: str) -> Entry:
    """The pending entry with this id. Raises FewstepError, saying who closed it and when, when it has been closed."""
    end = closing(entries, identity)
    if end is not None:
        raise FewstepError(f"decision {identity[:8]} is closed: {end.becomes or end.event} by {end.who} at {end.when}",
                           hint=f"`fewstep promote MODEL/{end.to} --approve` asks for a new one")  # fmt: skip
    return next(entry for entry in entries if entry.id == identity)


def standing(entries: list[Entry], entry: Entry) -> Entry | None:
    """The one of `entries` that makes it needless to write `entry` behind them: an intent ends once, and what waits for
    a person already is not asked for twice. None where it is to be written.

    Raises FewstepError when it would close a decision that is closed.
    """
    if entry.event == "pending":
        asked = (entry.alias, entry.former, entry.to)
        return next((other for other in waiting(entries) if (other.alias, other.former, other.to) == asked), None)
    known = [other for other in entries if other.id == entry.id]
    if entry.closes is not None and not known:
        still_open(entries, entry.closes)
    return next((other for other in known if other.event not in OPENING or other == entry), None)


def _in_force(entries: list[Entry]) -> list[Entry]:
    abandoned = {entry.id for entry in entries if entry.event == "abandoned"}
    return [entry for entry in entries if entry.id not in abandoned]
