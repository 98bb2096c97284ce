"""Outputs that were published and given to DVC's cache: one JSON file per key, shared by all worktrees. No DVC here."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from fewstep.util.config import Strict
from fewstep.util.errors import CorruptData
from fewstep.util.plain_data import from_json
from tasks.storage.dvc import cache_users
from tasks.storage.file_io import write_if_other
from tasks.storage.workspace import Workspace


class PublishedOutput(Strict, extra="ignore"):
    """Where the bytes of an output are.

    Attributes:
        stage, key, digest: the output's stage, the key it was made under, and the digest of its files.
        md5: DVC's name of the folder.
        store: DVC's cache, relative to the shared .fewstep folder.
        commit: of the code that made it, where that is known; uncommitted changes have a commit of their own.
    """

    stage: str
    key: str
    digest: str
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}(\.dir)?$")]
    store: str
    commit: str | None = None


def write(workspace: Workspace, output: PublishedOutput, key: str | None = None) -> None:
    """Note an output under its key, or under `key` where code of another digest was accepted as making the same."""
    write_if_other(_path(workspace, key or output.key), json.dumps(output.model_dump(), sort_keys=True) + "\n")


def read(workspace: Workspace, key: str) -> PublishedOutput | None:
    """The output known under `key`, here or in a workspace that shares the cache, wherever its bytes are; None where
    none is known."""
    try:
        return read_file(_path(workspace, key))
    except (OSError, CorruptData):
        return next(_known_to_others(workspace, key), None)


def _known_to_others(workspace: Workspace, key: str) -> Iterator[PublishedOutput]:
    for other in cache_users.others(workspace):
        with contextlib.suppress(OSError, CorruptData):
            found = read_file(_path(other, key))
            store = os.path.normpath(other.shared / found.store)
            yield found.model_copy(update={"store": os.path.relpath(store, workspace.shared)})


def read_file(path: Path) -> PublishedOutput:
    """The output noted in a file. Raises OSError, or CorruptData for a file that notes none."""
    try:
        return PublishedOutput.model_validate(from_json(path.read_bytes()))
    except ValueError:
        raise CorruptData(f"{path}: not a note of a published output",
                          hint="remove it: an output that is made again is noted again") from None


def restorable(workspace: Workspace, key: str) -> PublishedOutput | None:
    """The output known under `key` when DVC's cache still lists its files; else None."""
    output = read(workspace, key)
    if output is None:
        return None
    store = Path(os.path.normpath(workspace.shared / output.store))
    return output if os.path.exists(store / output.md5[:2] / output.md5[2:]) else None


def _path(workspace: Workspace, key: str) -> Path:
    return workspace.published / f"{key}.json"
