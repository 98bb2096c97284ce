"""Outputs of other machines: announced in object storage beside DVC's remote, and looked up there before work begins.

After its bytes are pushed an output is announced as `<remote>/fewstep/<key>.json` by a conditional PUT: of several
machines that made the same key exactly one is announced. An announcement is not trusted: an output that is fetched is
verified against its own manifest, like any output that is put back from the cache.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

from fewstep.util.errors import FewstepError
from fewstep.util.plain_data import NotPlain, from_json
from tasks.engine import graph
from tasks.engine import manifest as manifests
from tasks.engine.manifest import Manifest
from tasks.stages.base import Stage
from tasks.storage import published_outputs
from tasks.storage.dvc import dvc_lockfile, dvc_repo
from tasks.storage.published_outputs import PublishedOutput, restorable
from tasks.storage.sharing.collection import sent_whole
from tasks.storage.sharing.shared_store import remote_store, shared_store
from tasks.storage.workspace import Workspace

if TYPE_CHECKING:
    from tasks.storage.object_store import Store

_END = ".json"
_AT_ONCE = 16       # requests


def share(workspace: Workspace, stage: Stage) -> str | None:
    """Push the stage's published output to DVC's default remote, and announce it there to other machines.

    Returns:
        A note when another machine announced other bytes under its key.

    Raises:
        FewstepError: the remote refuses, or does not answer.
    """
    manifest = manifests.load(workspace.root / stage.output)
    known = restorable(workspace, manifest.key)
    if known is None:
        return None
    remote = shared_store(workspace)

    def send() -> str | None:
        pushed = dvc_repo.push_output(workspace, known.md5)
        return _announce(remote, manifest, known) if pushed and remote is not None else None

    return sent_whole(remote, send)


def share_all(workspace: Workspace) -> tuple[int, dict[str, str]]:
    """Push what dvc.lock names and is not there yet to DVC's default remote, and announce it.

    Returns:
        How many files were sent, and a note for each stage, by name, whose key another machine announced with other
        bytes.

    Raises:
        FewstepError: the remote refuses, or does not answer.
    """
    remote = shared_store(workspace)
    return sent_whole(remote, lambda: (dvc_repo.push(workspace), _announce_all(workspace, remote)))


def _announce_all(workspace: Workspace, remote: Store | None) -> dict[str, str]:
    """Announce the outputs that dvc.lock names, whose bytes have been pushed; a note for each stage as above."""
    notes = {}
    if remote is None:
        return notes
    locked = dvc_lockfile.lock_entries(workspace)
    for stage in graph.STAGES:
        manifest = manifests.load_quietly(workspace.root / stage.output)
        known = restorable(workspace, manifest.key) if manifest is not None else None
        outs = locked.get(stage.name, {}).get("outs") or [{}]
        if known is None or known.md5 != outs[0].get("md5"):
            continue
        note = _announce(remote, manifest, known)
        if note is not None:
            notes[stage.name] = note
    return notes


def _announce(remote: Store, manifest: Manifest, known: PublishedOutput) -> str | None:
    announcement = json.dumps(known.model_dump(exclude={"store"}), sort_keys=True).encode()
    for acceptance in manifest.accepted:    # who has the accepted code asks for this key
        remote.put_if_absent(_name(acceptance.key), announcement)
    if remote.put_if_absent(_name(manifest.key), announcement):
        return None
    other = _digest(remote.read(_name(manifest.key)))
    if other == manifest.digest:
        return None
    return (f"another machine made other bytes under the same key ({other[:12]}, here {manifest.digest[:12]}); both "
            "are kept")


def learn(workspace: Workspace, key: str) -> str | None:
    """Look up whether another machine made the output of `key`; if so it is fetched and can be restored afterwards.

    Returns:
        Why the lookup failed, None if it did not (whether or not there is such an output).
    """
    try:
        remote = shared_store(workspace)
        announcement = remote.find(_name(key)) if remote is not None else None
        if announcement is None:
            return None
        known = PublishedOutput.model_validate({**from_json(announcement), "store": ""})
        dvc_repo.fetch(workspace, [known.md5])
        with dvc_repo.repository(workspace) as repo:
            here = os.path.relpath(repo.cache.local.path, workspace.shared)
        published_outputs.write(workspace, known.model_copy(update={"store": here}), key)
    except (FewstepError, TypeError, ValueError) as error:
        return f"whether another machine made it could not be learnt: {error}"
    return None


def give_up_uploads(workspace: Workspace, idle: timedelta) -> list[str]:
    """End multipart uploads to the remote to which nobody has added anything for so long; returns their names."""
    remote = remote_store(workspace)
    return remote.abort_uploads(idle) if remote is not None else []


def _digest(announcement: bytes) -> str:
    try:
        return str(from_json(announcement)["digest"])
    except (NotPlain, KeyError, TypeError):
        return "unreadable"


def announced(remote: Store) -> dict[str, PublishedOutput]:
    """What hosts have announced, by the name it is looked up by. One that cannot be read is passed over."""
    names = [name for name in remote.names("") if "/" not in name and name.endswith(_END)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = zip(names, pool.map(remote.find, names), strict=True)
        return {name.removesuffix(_END): known for name, text in found if (known := _read(text)) is not None}


def withdraw(remote: Store, names: Iterable[str]) -> None:
    """Nobody learns of these outputs any more."""
    remote.delete(map(_name, names))


def _read(announcement: bytes | None) -> PublishedOutput | None:
    try:
        return PublishedOutput.model_validate({**from_json(announcement or b""), "store": ""})
    except (TypeError, ValueError):
        return None


def _name(key: str) -> str:
    return f"{key}{_END}"
