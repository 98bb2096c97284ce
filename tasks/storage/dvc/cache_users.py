"""Workspaces that share one DVC cache: each finds what another has made, and none deletes what another needs. No DVC
here.

`fewstep init` enters them in the cache, below `fewstep/workspaces`: a link for each, to its folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from tasks.storage.dvc.dvc_config import read_config
from tasks.storage.locks import held
from tasks.storage.workspace import Workspace

_USERS = Path("fewstep", "workspaces")      # below the cache, beside DVC's own folders


def join(workspace: Workspace, cache: Path) -> None:
    """Enter the workspace among those that share the cache."""
    place = cache / _USERS / hashlib.sha256(os.fsencode(workspace.root)).hexdigest()[:16]
    place.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        place.symlink_to(workspace.root)


def keep_joined(workspace: Workspace) -> None:
    """Enter it again, where its cache is a shared one: it may have been moved, or cloned with its settings."""
    cache = shared_cache(workspace)
    if cache is not None:
        join(Workspace(workspace.shared.parent), cache)


def others(workspace: Workspace) -> Iterator[Workspace]:
    """The other workspaces that share its cache and are still there."""
    cache = shared_cache(workspace)
    for place in sorted((cache / _USERS).iterdir()) if cache is not None else ():
        if place.is_dir() and place.resolve() != workspace.shared.parent.resolve():
            yield Workspace(place.resolve())


def shared_cache(workspace: Workspace) -> Path | None:
    """The cache that workspaces share; None for a workspace with a cache of its own, or one that nobody entered."""
    folder = workspace.root / ".dvc"
    config = read_config(folder / "config")
    config.merge(read_config(folder / "config.local"))
    section = config.get("cache")
    named = section.get("dir") if isinstance(section, dict) else None
    if not isinstance(named, str):
        return None
    cache = Path(os.path.normpath(folder / Path(named).expanduser()))
    return cache if (cache / _USERS).is_dir() else None


@contextlib.contextmanager
def alone_in(workspace: Workspace) -> Iterator[None]:
    """Be the only one of its workspaces that adds to a shared cache or deletes from it."""
    cache = shared_cache(workspace)
    if cache is None:
        yield
    else:
        with held(cache / _USERS.with_name("lock")):
            yield
