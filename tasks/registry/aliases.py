"""Which version is the champion: moves of an alias that survive being killed, and their entries in the audit log.

MLflow moves aliases last-writer-wins. Here a move is a compare-and-set: under this host's lock the intent is written to
the audit log (tasks.registry.record), then claimed before all hosts (tasks.registry.alias_claims), then the aliases
move, then the log says so. The next command, on whatever host, completes what a kill left half-done; where hosts share
the log it may even help one that lives, as every step can be repeated. The former champion becomes `previous`, to which
`rollback` returns.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from fewstep.util.errors import Busy, NotAvailable
from tasks.registry import audit_log
from tasks.registry.alias_claims import Move, Moves, Taken
from tasks.registry.audit_log import Entry
from tasks.registry.model_registry import CHAMPION, PREVIOUS, Registry, Version

_TAG = 90_000  # characters; MLflow takes 100,000 in the value of a tag


class AliasMoved(Busy):
    """Another promotion moved the alias between the decision and the move. Decide again."""


@dataclass(frozen=True)
class Decision:
    """A decision about a version and the reasons against it.

    Attributes:
        policy: rule by which it was decided: never, first or gated.
        former: number of the version that `alias` pointed at; None: at nothing.
        figures: the numbers that the decision rests on.
        kind: rule that refused; empty where none did.
        pending: id of the decision that waits for a person; None where none does.
    """

    model: str
    version: int
    alias: str
    policy: str
    promoted: bool
    reasons: tuple[str, ...]
    former: int | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    kind: str = ""
    pending: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def move(registry: Registry, version: Version, expected: int | None, *, alias: str = CHAMPION,
         event: Literal["promoted", "rolled back"] = "promoted", why: str = "", who: str | None = None,
         figures: dict[str, Any] | None = None, closes: str | None = None) -> Entry:  # fmt: skip
    """Points `alias` at `version` if it still points at version number `expected` (None: at nothing).

    `closes` is the id of the pending decision that this carries out. Returns the entry written. Killed anywhere, the
    next `complete` finishes it.

    Raises:
        AliasMoved: the alias points elsewhere by now.
        FewstepError: the pending decision was closed meanwhile.
    """
    with registry.lock(version.model):
        _complete(registry, version.model)
        record = registry.record(version.model)
        if closes is not None:
            audit_log.still_open(record.read(), closes)
        present = registry.holder(version.model, alias)
        if present != expected:
            raise _moved(version.model, alias, expected, present)
        intent = audit_log.new("intent", alias=alias, former=expected, to=version.number, who=who, why=why,
                               figures=figures, becomes=event, closes=closes)  # fmt: skip
        return _carry_out(registry, version.model, record.append(intent))


def write_down(registry: Registry, model: str, entry: Entry) -> None:
    """Appends an entry that moves nothing (a refusal, a pending decision) and puts it on the version's tags."""
    with registry.lock(model):
        tag(registry, model, registry.record(model).append(entry))


def tag(registry: Registry, model: str, entry: Entry) -> None:
    """Sets the version's tag `decision` to the entry, without the single contrasts where they would not fit."""
    text = entry.to_json()
    if len(text) > _TAG:
        contest = {**entry.figures["contest"], "contrasts": f"in the record under {entry.id}"}
        text = entry.model_copy(update={"figures": {**entry.figures, "contest": contest}}).to_json()
    registry.set_tags(registry.get(model, entry.to), decision=text)


def refuse(registry: Registry, decision: Decision, who: str | None = None) -> None:
    """Writes a refusal to the audit log and to the version's tags."""
    write_down(registry, decision.model, audit_log.new(
        "refused", alias=decision.alias, former=decision.former, to=decision.version, who=who,
        why="; ".join(decision.reasons), figures=decision.figures, kind=decision.kind))  # fmt: skip


def rollback(registry: Registry, model: str, *, why: str = "", who: str | None = None) -> tuple[int, int]:
    """Makes the previous champion champion again, its bytes verified first; returns the numbers (from, to).

    Raises NotAvailable when there is no champion, no previous one, or its bytes are gone, and DataDiffers when they are
    others than those registered.
    """
    complete(registry, model)
    current, former = registry.holder(model, CHAMPION), registry.holder(model, PREVIOUS)
    if former is None or current is None or former == current:
        raise NotAvailable(f"{model} has no previous champion to return to",
                           hint=f"`fewstep promote {model}/VERSION` makes another version champion")  # fmt: skip
    version = registry.get(model, former)
    registry.pipeline(version)
    move(registry, version, current, event="rolled back", why=why, who=who)
    return current, former


def complete(registry: Registry, model: str) -> Entry | None:
    """Finishes the alias move that a kill left half-done, here or on another host; returns its entry, if any."""
    if next(registry.registration_runs(model), None) is None:
        return None  # nothing that we registered
    with registry.lock(model):
        return _complete(registry, model)


def history(registry: Registry, model: str) -> list[Entry]:
    """The audit log, oldest first: who moved or was refused what, when, why, with the figures."""
    return registry.record(model).read()


def _complete(registry: Registry, model: str) -> Entry | None:
    moves = Moves(registry, model)
    completed = None
    for alias in sorted(moves.of):
        newest = moves.of[alias][-1]
        if not newest.done:
            completed = _finish(registry, model, newest)
    for intent in audit_log.open_entries(registry.record(model).read(), "intent"):
        completed = intent
        with contextlib.suppress(AliasMoved):  # the other host's move stands
            _carry_out(registry, model, intent)
    return completed


def _carry_out(registry: Registry, model: str, intent: Entry) -> Entry:
    """Brings `intent`, from wherever a kill left it, to its end in the audit log; returns the entry of that end.

    Raises AliasMoved, and writes that it was abandoned, when the alias is not where the intent expects it.
    """
    record = registry.record(model)
    while (moves := Moves(registry, model)).find(intent) is None:
        newest = moves.newest(intent.alias)
        if newest is not None and not newest.done:
            _finish(registry, model, newest)
            continue
        present = registry.holder(model, intent.alias)
        if present != intent.former:
            if Moves(registry, model).find(intent) is not None:     # another host claimed it for us meanwhile
                continue
            record.append(intent.ended_as("abandoned", found=present))
            raise _moved(model, intent.alias, intent.former, present)
        with contextlib.suppress(Taken):  # look again at the other host's move
            moves.claim(intent)
    claimed = moves.find(intent)
    if claimed is moves.newest(intent.alias) and not claimed.done:
        _point(registry, model, claimed)
    end = intent.ended_as(intent.becomes)
    tag(registry, model, end)
    return record.append(end)


def _finish(registry: Registry, model: str, move: Move) -> Entry:
    """Carries out a move that another host claimed and did not finish; returns its entry."""
    _point(registry, model, move)
    tag(registry, model, move.entry.ended_as(move.entry.becomes))
    return move.entry


def _point(registry: Registry, model: str, move: Move) -> None:
    """Moves the aliases as `move` says, unless somebody moved them by hand. Any host may repeat every step.

    `previous` is set before the champion moves, so that it is never lost. A host that slept between its claim and this
    would point the alias back at its own version although a newer move was carried out meanwhile. Therefore the newest
    move is read again afterwards and, where it is newer, carried out once more.
    """
    newest: Move | None = move
    by_us = False
    while newest is not None:
        entry = newest.entry
        if by_us or registry.holder(model, entry.alias) in (entry.former, entry.to):
            if entry.former is not None and entry.alias == CHAMPION:
                registry.set_alias(registry.get(model, entry.former), PREVIOUS)
            registry.set_alias(registry.get(model, entry.to), entry.alias)
        moves = Moves(registry, model)
        moves.finish(newest)
        last = moves.newest(entry.alias)
        newest, by_us = (last if last.number > newest.number else None), True


def _moved(model: str, alias: str, expected: int | None, present: int | None) -> AliasMoved:
    return AliasMoved(f"{model}@{alias} moved from {_number(expected)} to {_number(present)} meanwhile",
                      hint="run the command again: it decides against the new one")  # fmt: skip


def _number(number: int | None) -> str:
    return "nothing" if number is None else f"version {number}"
