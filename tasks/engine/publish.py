"""A finished output takes its place by two renames; the next start completes a swap that a crash cut in half."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from fewstep.util.errors import FewstepError
from fewstep.util.files import swap_folders, sweep, sync_tree
from tasks.engine import graph
from tasks.engine.manifest import NAME
from tasks.stages.base import Stage
from tasks.storage.file_io import discard
from tasks.storage.locks import held
from tasks.storage.workspace import Workspace


def trash(workspace: Workspace) -> Path:
    """Where doomed folders go; its content may be deleted at any time by whoever holds the checkout."""
    return workspace.local / "trash"


def publish(workspace: Workspace, stage: Stage, work: Path) -> Path:
    """Move `work/out`, which holds a written manifest, to the stage's output folder; the former one is deleted.

    Everything is synced before the first rename. Between the renames there is no output, but the new one lies in
    `work/out` with its manifest and `work/ready` says whose it is: `complete` finishes the move.
    """
    sync_tree(work / "out")
    with held(_swapping(workspace)):
        (work / "ready").write_text(stage.name)
        sync_tree(work)
        return _swap(workspace, stage, work)


def _swapping(workspace: Workspace) -> Path:
    """The lock of who swaps outputs: a run may make two stages at once, each in a process of its own."""
    return workspace.local / "swapping"


def _swap(workspace: Workspace, stage: Stage, work: Path) -> Path:
    target = workspace.root / stage.output
    target.parent.mkdir(parents=True, exist_ok=True)
    if (work / "out").exists():
        swap_folders(work / "out", target, work / "former")
    discard(work, trash(workspace))
    return target


def complete(workspace: Workspace) -> list[str]:
    """Finish half-done swaps and remove what dead processes left behind; the caller holds the checkout's lock.

    Returns the names of the stages whose outputs took their place now.
    """
    with held(_swapping(workspace)):
        return _completed(workspace)


def _completed(workspace: Workspace) -> list[str]:
    done = []
    if workspace.partial.is_dir():
        for work in sorted(workspace.partial.iterdir()):
            ready = work / "ready"
            name = ready.read_text(errors="replace") if ready.is_file() else ""
            if name not in graph.BY_NAME:
                continue
            if (work / "out" / NAME).is_file():
                done.append(name)
            _swap(workspace, graph.stage(name), work)
    if trash(workspace).is_dir():   # which stays: another stage may be about to put something there
        for doomed in trash(workspace).iterdir():
            shutil.rmtree(doomed, ignore_errors=True)
    for folder in (workspace.root, workspace.data, workspace.data / "cost", workspace.data / "report", workspace.local,
                   workspace.local / "recorded", workspace.shared, workspace.published):
        sweep(folder)
    return done


def leftovers(workspace: Workspace, keep: set[str]) -> list[Path]:
    """Work in progress of keys that are not in `keep`: what `fewstep clean` may remove."""
    if not workspace.partial.is_dir():
        return []
    return sorted(path for path in workspace.partial.iterdir() if path.name not in keep)


def check_same_file_system(workspace: Workspace) -> None:
    """Publishing is a rename: data/ and .fewstep/ must be on one file system. Raises FewstepError otherwise."""
    for folder in (workspace.data, workspace.partial):
        folder.mkdir(parents=True, exist_ok=True)
    if os.stat(workspace.data).st_dev != os.stat(workspace.partial).st_dev:
        raise FewstepError(f"{workspace.data} and {workspace.partial} are on different file systems",
                           hint="put both on one: finished outputs take their place by a rename")
