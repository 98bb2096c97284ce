"""A record that this host kept alone, carried into the one that hosts share since the project has a store for it.

It goes behind what stands there, in its order, and stays here as a file. Who dies at it or repeats it writes nothing
twice: an entry is known by its id. MLflow says which entries are about the registry of today (a checkout may have used
others under the same file): it has the ids of all moves, and on each version its newest decision.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fewstep.util.errors import DataDiffers
from fewstep.util.files import write_atomically
from tasks.registry import audit_log
from tasks.registry.alias_claims import Moves
from tasks.registry.audit_log import OPENING, Entry
from tasks.registry.record import FileRecord
from tasks.registry.shared_record import SharedRecord
from tasks.storage.locks import held

if TYPE_CHECKING:
    from tasks.registry.model_registry import Registry  # it calls this module

_MARK = "carried"       # beside the file: into which record how many of its entries were carried


def carry_over(registry: Registry, model: str, shared: SharedRecord) -> None:
    """Writes the entries of this host's file that `shared` lacks into it, once.

    Raises DataDiffers, before anything is written, where the two say that one decision or move ended in two ways, and
    NotAvailable where a server does not answer.
    """
    local = FileRecord(registry.folder / model)
    if not local.path.exists():
        return
    with held(local.path.with_name(f"{_MARK}.lock")):
        entries, mark = local.read(), local.path.with_name(_MARK)
        said = f"{len(entries)} {shared.name}"
        if not entries or (mark.exists() and mark.read_text() == said):
            return
        ours, there = about(registry, model, entries), shared.read()
        while missing := _missing(ours, there, local):
            shared.write_behind(there, missing[0])
            there = shared.read()
        delivered = local.delivered()
        if [entry.id for entry in there[:delivered]] == [entry.id for entry in entries[:delivered]]:
            shared.note_delivered(delivered)
        write_atomically(mark, said)


def about(registry: Registry, model: str, entries: list[Entry]) -> list[Entry]:
    """Those of `entries` that are about this registry: all of them, unless there is one that certainly is not."""
    known = {move.entry.id for moves in Moves(registry, model).of.values() for move in moves}
    known |= {json.loads(version.tags["fewstep.decision"])["id"] for version in registry.versions(model)
              if "fewstep.decision" in version.tags}
    for entry in entries:       # what closes a decision, and what it closes, are about one registry
        if entry.closes is not None and known & {entry.id, entry.closes}:
            known |= {entry.id, entry.closes}
    ours = [entry for entry in entries if entry.id in known]
    foreign = any(entry.event in ("promoted", "rolled back") and entry.id not in known for entry in entries)
    return ours if foreign or not ours else entries


def _missing(ours: list[Entry], theirs: list[Entry], local: FileRecord) -> list[Entry]:
    """The entries that `theirs` lacks, in order. Raises DataDiffers where it says of one that it ended otherwise."""
    ends = {entry.id: entry for entry in theirs if entry.event not in OPENING}
    for entry in ours:
        if entry.event == "pending":
            mine, yours = audit_log.closing(ours, entry.id), audit_log.closing(theirs, entry.id)
            agree = mine is None or yours is None or mine.id == yours.id
        else:
            mine, yours = entry, ends.get(entry.id)
            agree = entry.event in OPENING or yours is None or yours.event == entry.event
        if not agree:
            raise DataDiffers(
                f"the records contradict each other about version {entry.to} → {entry.alias} ({entry.id[:8]}): "
                f"{_told(mine)} in {local.path}, {_told(yours)} in the shared store",
                hint="move that file away to go on with the record that hosts share")
    there = {(entry.id, entry.event in OPENING) for entry in theirs}
    return [entry for entry in ours if (entry.id, entry.event in OPENING) not in there]


def _told(entry: Entry) -> str:
    return f"{entry.becomes or entry.event} by {entry.who} at {entry.when}"
