"""Outputs that other machines made: announced beside DVC's remote in object storage, and learnt from there.

After its bytes are pushed an output is announced as `<remote>/fewstep/<key>.json` by a conditional PUT, so of several
machines that made the same key exactly one is announced. A machine that is about to make a key asks first. Nothing here
is trusted: what is fetched is verified against its own manifest, like any output that is put back.
"""

from __future__ import annotations

import configparser
import json
import os

from fewstep.util.errors import FewstepError
from fewstep.util.files import write_atomically
from tasks.engine import graph
from tasks.engine import manifest as manifests
from tasks.engine.plan import restorable
from tasks.storage import dvc_lockfile
from tasks.storage.workspace import Workspace

FOLDER = "fewstep"
ATTEMPTS = 2    # asking is a courtesy: a store that does not answer must not hold a stage up for long


def store(workspace: Workspace):
    """The object store of DVC's default remote; None where that is a folder or there is none."""
    parser = configparser.ConfigParser()
    parser.read([workspace.root / ".dvc" / "config", workspace.root / ".dvc" / "config.local"])
    section = f"'remote \"{parser.get('core', 'remote', fallback=None)}\"'"
    url = parser.get(section, "url", fallback="")
    if not url.startswith("s3://"):
        return None
    from tasks.storage.object_store import Store

    return Store(url, parser.get(section, "endpointurl", fallback=None), ATTEMPTS)


def announce(workspace: Workspace) -> dict[str, str]:
    """Announce the outputs that dvc.lock names, which must have been pushed; what a person should know, by stage.

    Raises NotAvailable where the store does not answer.
    """
    remote, notes = store(workspace), {}
    if remote is None:
        return notes
    locked = dvc_lockfile.lock_entries(workspace)
    for stage in graph.STAGES:
        manifest = manifests.load_quietly(workspace.root / stage.output)
        known = restorable(workspace, manifest.key) if manifest is not None else None
        outs = locked.get(stage.name, {}).get("outs") or [{}]
        if known is None or known["md5"] != outs[0].get("md5"):
            continue
        said = {name: known[name] for name in ("stage", "key", "digest", "md5")}
        if remote.put_if_absent(_name(manifest.key), json.dumps(said, sort_keys=True).encode()):
            continue
        other = json.loads(remote.read(_name(manifest.key)))
        if other.get("digest") != manifest.digest:
            notes[stage.name] = ("another machine made other bytes under the same key "
                                 f"({str(other.get('digest'))[:12]}, here {manifest.digest[:12]}); both are kept")
    return notes


def learn(workspace: Workspace, key: str) -> str | None:
    """Asks whether another machine made `key`: if so it can be restored afterwards. Returns why it could not ask."""
    from tasks.storage import dvc_repo

    try:
        remote = store(workspace)
        said = remote.find(_name(key)) if remote is not None else None
        if said is None:
            return None
        known = json.loads(said)
        dvc_repo.fetch(workspace, [known["md5"]])
        with dvc_repo.repository(workspace) as repo:
            known["store"] = os.path.relpath(repo.cache.local.path, workspace.shared)
    except (FewstepError, KeyError, TypeError, ValueError) as error:
        return f"whether another machine made it could not be learnt: {error}"
    write_atomically(workspace.published / f"{key}.json", json.dumps(known, sort_keys=True) + "\n")
    return None


def give_up_uploads(workspace: Workspace, older_than) -> list[str]:
    """Ends multipart uploads to the remote that a death left unfinished that long ago (a timedelta); their names."""
    remote = store(workspace)
    return remote.abort_uploads(older_than) if remote is not None else []


def _name(key: str) -> str:
    return f"{FOLDER}/{key}.json"
