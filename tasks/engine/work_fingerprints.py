"""Under which fingerprints the work of a stage was done: equality of bits is claimed under one."""

from __future__ import annotations

from pathlib import Path

from fewstep.util.checked_json import read_checked, write_checked
from tasks.stages.base import Context

NAME, FORMAT = "fingerprints.json", "fewstep-fingerprints/1"


def noted(work: Path) -> list[dict]:
    """All fingerprints noted in the folder of a stage's work, in the order in which they came."""
    path = work / NAME
    return read_checked(path, FORMAT)["known"] if path.exists() else []


def note(context: Context, fingerprint: dict) -> None:
    """Note where work is done from now on. A second machine is worth a warning."""
    with context.locked():
        known = noted(context.work)
        if fingerprint in known:
            return
        write_checked(context.work / NAME, FORMAT, {"known": [*known, fingerprint]})
    if known:
        changed = ", ".join(f"{name} {known[-1].get(name)} → {fingerprint[name]}" for name in fingerprint
                            if known[-1].get(name) != fingerprint[name])
        context.warn(f"continued on another machine or with other libraries ({changed}): the result is valid, "
                     "equality bit for bit with an undisturbed run is not claimed")
