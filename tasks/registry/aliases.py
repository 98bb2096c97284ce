"""Which version is the champion: an alias move that survives being killed, and what is written down about it.

MLflow moves aliases last-writer-wins. Here a move is a compare-and-set: under this host's lock its intent is written to
an append-only record (tasks.registry.audit_log), then it is claimed before all hosts (tasks.registry.alias_claims), then the aliases move, then the
record says so. The next command, on whatever host, completes what a kill left half-done. The former champion becomes
`previous`, which is what `rollback` returns to.
"""

import contextlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fewstep.util.errors import Busy, FewstepError, NotAvailable
from tasks.registry import audit_log
from tasks.registry.alias_claims import Move, Moves, Taken
from tasks.registry.model_registry import CHAMPION, PREVIOUS, Registry, Version

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
            still_open(audit_log.read(folder), closes)
        found = registry.aliases(version.model).get(alias)
        if found != expected:
            raise _moved(version.model, alias, expected, found)
        entry = audit_log.new("intent", alias=alias, former=expected, to=version.number, who=who, why=why,
                           figures=figures, **{"as": event})  # fmt: skip
        if closes is not None:
            entry["closes"] = closes
        audit_log.append(folder, entry)
        return _carry_out(registry, version.model, folder, entry)


def still_open(entries: list[dict], identity: str) -> dict:
    """The pending entry with this id. Raises FewstepError, saying how it ended, when it has been closed."""
    entry = audit_log.closing(entries, identity)
    if entry is not None:
        ended = entry.get("as") or entry["event"]
        raise FewstepError(f"decision {identity[:8]} is closed: {ended} by {entry['who']} at {entry['when']}",
                           hint=f"`fewstep promote MODEL/{entry['to']} --approve` asks for a new one")  # fmt: skip
    return next(entry for entry in entries if entry["id"] == identity)


def write_down(registry: Registry, model: str, entry: dict) -> None:
    """Appends an entry that moves nothing (a refusal, a pending decision) and puts it on the version's tags."""
    with registry.lock(model) as folder:
        audit_log.append(folder, entry)
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
    write_down(registry, decision.model, audit_log.new(
        "refused", alias=decision.alias, former=decision.former, to=decision.version, who=who,
        why="; ".join(decision.reasons), figures=decision.figures, kind=decision.kind))  # fmt: skip


def rollback(registry: Registry, model: str, *, why: str = "", who: str | None = None) -> tuple[int, int]:
    """Makes the previous champion champion again, its bytes verified first; returns the numbers (from, to).

    Raises NotAvailable when there is no champion, no previous one, or its bytes are gone, and DataDiffers when they are
    others than those registered.
    """
    complete(registry, model)
    aliases = registry.aliases(model)
    current, former = aliases.get(CHAMPION), aliases.get(PREVIOUS)
    if former is None or current is None or former == current:
        raise NotAvailable(f"{model} has no previous champion to return to",
                           hint=f"`fewstep promote {model}/VERSION` makes another version champion")  # fmt: skip
    version = registry.get(model, former)
    registry.pipeline(version)
    move(registry, version, current, event="rolled back", why=why, who=who)
    return current, former


def complete(registry: Registry, model: str) -> dict | None:
    """Finishes the alias move that a kill left half-done, here or on another host; returns its entry, or None when
    there was none."""
    if not any(version.run_id for version in registry.versions(model)):
        return None  # nothing that we registered
    with registry.lock(model) as folder:
        return _complete(registry, model, folder)


def history(registry: Registry, model: str) -> list[dict]:
    """The record, oldest first: who moved or was refused what, when, why, with the figures."""
    return audit_log.read(registry.folder / model)


def _complete(registry: Registry, model: str, folder: Path) -> dict | None:
    moves = Moves(registry, model)
    newest = (moves.newest(alias) for alias in moves.aliases)
    finished = [_finish(registry, model, move) for move in newest if move is not None and not move.done]
    waiting = audit_log.open_entries(audit_log.read(folder), "intent")
    if waiting:
        with contextlib.suppress(AliasMoved):  # theirs stands
            _carry_out(registry, model, folder, waiting[-1])
    return waiting[-1] if waiting else finished[-1] if finished else None


def _carry_out(registry: Registry, model: str, folder: Path, entry: dict) -> dict:
    """The intent `entry`, from wherever a kill left it, to its end in the record, which is returned.

    Raises AliasMoved, and writes that it was abandoned, when the alias is not where the intent found it.
    """
    alias = entry["alias"]
    while (moves := Moves(registry, model)).find(alias, entry["id"]) is None:
        newest = moves.newest(alias)
        if newest is not None and not newest.done:
            _finish(registry, model, newest)
            continue
        found = registry.aliases(model).get(alias)
        if found != entry["from"]:
            audit_log.append(folder, _end(entry, "abandoned", found=found))
            raise _moved(model, alias, entry["from"], found)
        with contextlib.suppress(Taken):  # look again at what the other one made of it
            moves.claim(entry)
    mine, newest = moves.find(alias, entry["id"]), moves.newest(alias)
    if mine.number == newest.number and not mine.done:
        _point(registry, model, mine)
    done = _end(entry, entry["as"])
    tag(registry, model, done)
    audit_log.append(folder, done)
    return done


def _finish(registry: Registry, model: str, move: Move) -> dict:
    """Carries out what another host claimed and did not say to be done; returns its entry."""
    _point(registry, model, move)
    tag(registry, model, _end({**move.entry, "figures": {}}, move.entry["as"]))
    return move.entry


def _point(registry: Registry, model: str, move: Move) -> None:
    """Moves the aliases as `move` says, unless somebody moved them by hand. Every step may be repeated, by many.

    The former champion is noted before the champion moves: never none. Who slept in between has set what is no longer
    the newest move; so it is looked up again, and if there is a newer one, that is carried out over it.
    """
    newest: Move | None = move
    by_us = False
    while newest is not None:
        alias, former, number = (newest.entry[key] for key in ("alias", "from", "to"))
        if by_us or registry.aliases(model).get(alias) in (former, number):
            if former is not None and alias == CHAMPION:
                registry.set_alias(registry.get(model, former), PREVIOUS)
            registry.set_alias(registry.get(model, number), alias)
        moves = Moves(registry, model)
        moves.finish(newest)
        last = moves.newest(alias)
        newest, by_us = (last if last.number > newest.number else None), True


def _moved(model: str, alias: str, expected: int | None, found: int | None) -> AliasMoved:
    return AliasMoved(f"{model}@{alias} moved from {_number(expected)} to {_number(found)} meanwhile",
                      hint="run the command again: it decides against the new one")  # fmt: skip


def _end(intent: dict, event: str, **more) -> dict:
    """The entry that ends an intent: the same, under its id."""
    return {**intent, "event": event, "when": audit_log.now(), **more}


def _number(number: int | None) -> str:
    return "nothing" if number is None else f"version {number}"
