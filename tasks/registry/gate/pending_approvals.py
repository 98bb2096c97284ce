"""Decisions that wait for a person: stored in the record, holding no lock and no process, for a limited time.

Where hosts share the record any of them may decide; of several that do at once one does, and the others are told who.
"""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from fewstep.util.errors import FewstepError, NotAvailable, SettingsError
from tasks.registry import aliases, audit_log
from tasks.registry.aliases import AliasMoved, Decision
from tasks.registry.audit_log import Entry
from tasks.registry.model_registry import Registry

_SHORTEST = 4  # hexadecimal digits of an id


def store(registry: Registry, decision: Decision, hours: float, *, why: str = "", who: str | None = None) -> Decision:
    """Writes `decision` down as pending; the same that waits already is not asked for twice."""
    with registry.lock(decision.model):
        expires = datetime.now(UTC) + timedelta(hours=hours)
        weights = registry.get(decision.model, decision.version).provenance.weights
        entry = registry.record(decision.model).append(audit_log.new(
            "pending", alias=decision.alias, former=decision.former, to=decision.version, who=who, why=why,
            figures=decision.figures, expires=expires.isoformat(timespec="seconds"), weights=weights))  # fmt: skip
        aliases.tag(registry, decision.model, entry)  # a kill may have come before it
    return replace(decision, promoted=False, pending=entry.id)


def waiting(registry: Registry, model: str) -> list[Entry]:
    """Decisions of `model` that a person can still make, oldest first."""
    return audit_log.waiting(aliases.history(registry, model))


def find(registry: Registry, identity: str) -> tuple[str, Entry]:
    """The model and the pending entry with this id (or its first digits), open or closed.

    Raises SettingsError for what is no id or fits several, NotAvailable for an unknown one.
    """
    if not re.fullmatch(r"[0-9a-f]+", identity) or not _SHORTEST <= len(identity) <= 32:
        raise SettingsError(f"{identity!r} is no decision's id: expected at least {_SHORTEST} hexadecimal digits")
    found = [(model, entry) for model in registry.models() for entry in aliases.history(registry, model)
             if entry.event == "pending" and entry.id.startswith(identity)]  # fmt: skip
    if not found:
        raise NotAvailable(f"no decision {identity!r} waits here",
                           hint="`fewstep promote MODEL --approve` makes one")  # fmt: skip
    if len(found) > 1:
        raise SettingsError(f"{identity!r} fits {len(found)} decisions: give more digits")
    return found[0]


def approve(registry: Registry, identity: str, *, why: str = "", who: str | None = None) -> Entry:
    """Carries the decision out, if the champion is the one it was made against and the bytes are those it was made of.

    Returns the entry written.

    Raises:
        FewstepError: it is closed or has expired.
        AliasMoved: there is another champion by now; the decision is closed as overtaken.
        DataDiffers: the candidate's bytes differ from what was registered.
    """
    model, entry = find(registry, identity)
    aliases.complete(registry, model)
    _check_open(registry, model, entry, who)
    version = registry.get(model, entry.to)
    if version.provenance.weights != (entry.weights or ""):
        raise FewstepError(f"{version.name} carries another weights digest than when this was decided")
    registry.pipeline(version)
    try:
        return aliases.move(registry, version, entry.former, alias=entry.alias, why=why or entry.why, who=who,
                              figures=entry.figures, closes=entry.id)  # fmt: skip
    except AliasMoved as error:
        _close(registry, model, entry, "overtaken", who, str(error))
        raise AliasMoved(f"{error}; decision {entry.id[:8]} was made against the former champion",
                         hint=f"`fewstep promote {model}/{entry.to} --approve` decides again") from None  # fmt: skip


def reject(registry: Registry, identity: str, *, why: str = "", who: str | None = None) -> Entry:
    """Closes the decision; nothing moves. Raises FewstepError when it is closed or has expired."""
    model, entry = find(registry, identity)
    aliases.complete(registry, model)
    _check_open(registry, model, entry, who)
    return _close(registry, model, entry, "rejected", who, why)


def _check_open(registry: Registry, model: str, entry: Entry, who: str | None) -> None:
    audit_log.still_open(aliases.history(registry, model), entry.id)
    if audit_log.expired(entry):
        _close(registry, model, entry, "expired", who, f"not decided until {entry.expires}")
        raise FewstepError(f"decision {entry.id[:8]} expired at {entry.expires}",
                           hint=f"`fewstep promote {model}/{entry.to} --approve` decides again")  # fmt: skip


def _close(registry: Registry, model: str, entry: Entry, event: audit_log.Event, who: str | None, why: str) -> Entry:
    with registry.lock(model):
        closing = registry.record(model).append(audit_log.new(
            event, alias=entry.alias, former=entry.former, to=entry.to, who=who, why=why, closes=entry.id))
        aliases.tag(registry, model, closing)
    return closing
