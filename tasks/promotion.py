"""Which version is the champion: an alias move that survives being killed, and what is written down about it.

MLflow moves aliases last-writer-wins. Here a move is a compare-and-set under a lock: its intent is written to an
append-only record first (tasks.record), then the aliases move, then the record says so; the next command completes what
a kill left half-done. The former champion becomes `previous`, which is what `rollback` returns to.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fewstep.errors import Busy, FewstepError, NotAvailable
from tasks import record
from tasks.registry import CHAMPION, PREVIOUS, Registry, Version

_TAG = 90_000  # characters; MLflow takes 100,000 in the value of a tag


class AliasMoved(Busy):
    """Another promotion moved the alias between the decision and the move. Decide again."""


@dataclass(frozen=True)
class Decision:
    """What was decided, by which rule, and why. `figures` are the numbers the decision rests on.

    `kind` says which rule refused it (empty when none did), `pending` is the id of a decision that waits for a person.
    """

    model: str
    version: int
    alias: str
    policy: str
    promoted: bool
    reasons: tuple[str, ...]
    former: int | None = None
    figures: dict = field(default_factory=dict)
    kind: str = ""
    pending: str | None = None

    def to_dict(self) -> dict:
        return asdict(self)


def move(registry: Registry, version: Version, expected: int | None, *, alias: str = CHAMPION, event: str = "promoted",
         why: str = "", who: str | None = None, figures: dict | None = None, closes: str | None = None) -> dict:
    """Points `alias` at `version` if it still points at version number `expected` (None: at nothing).

    `closes` is the id of the pending decision that this carries out. Returns the entry written. Killed anywhere, the
    next `complete` finishes it.

    Raises:
        AliasMoved: the alias points elsewhere by now.
        FewstepError: the pending decision was closed meanwhile.
    """
    with registry.lock(version.model) as folder:
        _complete(registry, version.model, folder)
        if closes is not None:
            still_open(record.read(folder), closes)
        found = registry.aliases(version.model).get(alias)
        if found != expected:
            raise AliasMoved(f"{version.model}@{alias} moved from {_number(expected)} to {_number(found)} meanwhile",
                             hint="run the command again: it decides against the new one")  # fmt: skip
        entry = record.new("intent", alias=alias, former=expected, to=version.number, who=who, why=why,
                           figures=figures, **{"as": event})  # fmt: skip
        if closes is not None:
            entry["closes"] = closes
        record.append(folder, entry)
        return _apply(registry, version.model, folder, entry)


def still_open(entries: list[dict], identity: str) -> dict:
    """The pending entry with this id. Raises FewstepError, saying how it ended, when it has been closed."""
    for entry in entries:
        if entry.get("closes") == identity:
            ended = entry.get("as") or entry["event"]
            raise FewstepError(f"decision {identity[:8]} is closed: {ended} by {entry['who']} at {entry['when']}")
    return next(entry for entry in entries if entry["id"] == identity)


def write_down(registry: Registry, model: str, entry: dict) -> None:
    """Appends an entry that moves nothing (a refusal, a pending decision) and puts it on the version's tags."""
    with registry.lock(model) as folder:
        record.append(folder, entry)
        tag(registry, model, entry)


def tag(registry: Registry, model: str, entry: dict) -> None:
    """The version's tag `decision` holds its newest entry, without the single contrasts where they would not fit."""
    text = json.dumps(entry, sort_keys=True)
    if len(text) > _TAG:
        contest = {**entry["figures"]["contest"], "contrasts": f"in the record under {entry['id']}"}
        text = json.dumps({**entry, "figures": {**entry["figures"], "contest": contest}}, sort_keys=True)
    registry.set_tags(registry.get(model, entry["to"]), decision=text)


def refuse(registry: Registry, decision: Decision, who: str | None = None) -> None:
    """Writes a refusal to the record and to the version's tags."""
    write_down(registry, decision.model, record.new(
        "refused", alias=decision.alias, former=decision.former, to=decision.version, who=who,
        why="; ".join(decision.reasons), figures=decision.figures, kind=decision.kind))  # fmt: skip


def rollback(registry: Registry, model: str, *, why: str = "", who: str | None = None) -> tuple[int, int]:
    """Makes the previous champion champion again; returns the numbers (from, to).

    Raises NotAvailable when there is no champion or no previous one.
    """
    complete(registry, model)
    aliases = registry.aliases(model)
    current, former = aliases.get(CHAMPION), aliases.get(PREVIOUS)
    if former is None or current is None or former == current:
        raise NotAvailable(f"{model} has no previous champion to return to",
                           hint=f"`fewstep promote {model}/VERSION` makes another version champion")  # fmt: skip
    move(registry, registry.get(model, former), current, event="rolled back", why=why, who=who)
    return current, former


def complete(registry: Registry, model: str) -> dict | None:
    """Finishes the alias move that a kill left half-done; returns its entry, or None when there was none."""
    if not (registry.folder / model / record.NAME).exists():
        return None
    with registry.lock(model) as folder:
        return _complete(registry, model, folder)


def history(registry: Registry, model: str) -> list[dict]:
    """The record, oldest first: who moved or was refused what, when, why, with the figures."""
    return record.read(registry.folder / model)


def _complete(registry: Registry, model: str, folder: Path) -> dict | None:
    waiting = record.open_entries(record.read(folder), "intent")
    if not waiting:
        return None
    entry = waiting[-1]
    found = registry.aliases(model).get(entry["alias"])
    if found in (entry["from"], entry["to"]):
        _apply(registry, model, folder, entry)
    else:  # somebody moved it by hand in between: theirs stands
        record.append(folder, _end(entry, "abandoned", found=found))
    return entry


def _apply(registry: Registry, model: str, folder: Path, entry: dict) -> dict:
    """Every step may be repeated. The former champion is noted before the champion moves: never none."""
    if entry["from"] is not None and entry["alias"] == CHAMPION:
        registry.set_alias(registry.get(model, entry["from"]), PREVIOUS)
    registry.set_alias(registry.get(model, entry["to"]), entry["alias"])
    done = _end(entry, entry["as"])
    tag(registry, model, done)
    record.append(folder, done)
    return done


def _end(intent: dict, event: str, **more) -> dict:
    """The entry that ends an intent: the same, under its id."""
    return {**intent, "event": event, "when": record.now(), **more}


def _number(number: int | None) -> str:
    return "nothing" if number is None else f"version {number}"
