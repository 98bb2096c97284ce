"""The append-only record of a registered model: who decided what about it, when, why, and on which figures.

One JSON line per entry, synced before anything is acted upon. An entry has `event`, `id`, `when`, `who`, `why` and, for
a decision, `alias`, `from` (the champion's number or null), `to` and `figures`. What an intent ended in has its id;
what carries out or rejects a pending decision names it in `closes`.
"""

import getpass
import json
import os
import uuid
from datetime import UTC, datetime
from pathlib import Path

from tasks.tracking.redaction import redact

NAME = "record.jsonl"
OPENING = ("intent", "pending")  # what a later entry closes


def author() -> str:
    """Who is recorded: FEWSTEP_USER, else the account's name."""
    return os.environ.get("FEWSTEP_USER") or getpass.getuser()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def new(event: str, *, alias: str, former: int | None, to: int, who: str | None, why: str, figures: dict | None = None,
        **more) -> dict:  # fmt: skip
    """An entry with an id of its own; secrets are taken out of `why`."""
    return {"event": event, "id": uuid.uuid4().hex, "alias": alias, "from": former, "to": to, "when": now(),
            "who": who or author(), "why": redact(why), "figures": figures or {}, **more}  # fmt: skip


def append(folder: Path, entry: dict) -> None:
    """Writes one line and syncs it. Callers hold the model's lock."""
    with open(folder / NAME, "a+b") as file:
        file.seek(0)
        content = file.read()
        if content and not content.endswith(b"\n"):  # a line torn by a power cut was never acted upon
            file.truncate(content.rfind(b"\n") + 1)
        file.write(json.dumps(entry, sort_keys=True).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read(folder: Path) -> list[dict]:
    """All entries, oldest first; empty where there is no record."""
    path = folder / NAME
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def closing(entries: list[dict], identity: str) -> dict | None:
    """The entry that closes the pending decision with this id, if one does; an intent that was abandoned does not."""
    return next((entry for entry in _in_force(entries) if entry.get("closes") == identity), None)


def open_entries(entries: list[dict], event: str) -> list[dict]:
    """Entries of this `event` that nothing has closed."""
    closed = {entry["closes"] for entry in _in_force(entries) if "closes" in entry}
    closed |= {entry["id"] for entry in entries if entry["event"] not in OPENING}
    return [entry for entry in entries if entry["event"] == event and entry["id"] not in closed]


def _in_force(entries: list[dict]) -> list[dict]:
    abandoned = {entry["id"] for entry in entries if entry["event"] == "abandoned"}
    return [entry for entry in entries if entry["id"] not in abandoned]
