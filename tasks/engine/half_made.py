"""Half-made work of a stage that was interrupted: what it is of, and why a start under another key leaves it aside."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from fewstep.util.checked_json import read_checked, write_checked
from fewstep.util.errors import CorruptData
from tasks.engine.stage_code import changed_files
from tasks.engine.stage_key import Identity
from tasks.storage.workspace import Workspace

NAME, FORMAT = "identity.json", "fewstep-identity/1"
_NAMED = 3


def note(work: Path, identity: Identity) -> None:
    """Write down what the work in this folder is of."""
    write_checked(work / NAME, FORMAT, dataclasses.asdict(identity))


def stage_of(work: Path) -> str | None:
    """The stage that the work in this folder is of; None where that was not written down."""
    facts = _facts(work)
    return None if facts is None else facts["stage"]


def left_for_its_code(workspace: Workspace, identity: Identity) -> str | None:
    """In words, which work will not be continued though nothing but code differs; None where there is none, or where
    work under this very key is under way."""
    if (workspace.partial / identity.key).is_dir():
        return None
    wanted = dataclasses.asdict(identity)
    told = [f"{work.relative_to(workspace.root)} ({size(work) / 1e6:.1f} MB; changed: {_named(facts, identity)})"
            for work, facts in _others(workspace)
            if {**facts, "code": None} == {**wanted, "code": None}]
    if not told:
        return None
    return (f"half-made work is not continued, for its code has changed: {', '.join(told)}; with the code as it was it "
            "would be, `fewstep clean` removes it")


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(os.path.getsize(os.path.join(parent, name)) for parent, _, names in os.walk(path) for name in names)


def _others(workspace: Workspace) -> Iterator[tuple[Path, dict]]:
    for work in sorted(workspace.partial.iterdir()) if workspace.partial.is_dir() else ():
        facts = _facts(work)
        if facts is not None:
            yield work, facts


def _facts(work: Path) -> dict | None:
    """The identity as it was noted; None where it was not, as in work of an earlier version."""
    try:
        facts = read_checked(work / NAME, FORMAT)
        return {name: value for name, value in facts.items() if name != "format"}
    except (OSError, CorruptData):
        return None


def _named(facts: dict, identity: Identity) -> str:
    files = changed_files(facts["code"]["files"], identity.code.files)
    return ", ".join(files[:_NAMED]) + (f" and {len(files) - _NAMED} more" if len(files) > _NAMED else "")
