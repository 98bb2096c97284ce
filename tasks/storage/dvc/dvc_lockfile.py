"""dvc.lock as plain data: what DVC claims about a stage, and whether the claim is known to be true. No DVC here.

`recorded/<stage>.json` remembers, for each stage, the entry of dvc.lock that was verified, its key, and the state of
everything DVC looks at. While all of it is as it was, there is no need to ask DVC.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field

from fewstep.util.config import Strict, parse
from fewstep.util.errors import SettingsError
from fewstep.util.files import write_atomically
from fewstep.util.hashing import sha256_file, sha256_json
from fewstep.util.plain_data import from_json
from tasks.config import params_file
from tasks.engine import graph
from tasks.engine import manifest as manifests
from tasks.engine.stage_code import DECIDES
from tasks.stages.base import Stage
from tasks.storage.file_io import StatTable
from tasks.storage.workspace import Workspace

IGNORED = ("__pycache__",)
MD5 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}(\.dir)?$")]
"""DVC's name of a file, or of the list of a folder's files."""
_BROKEN_HINT = "remove dvc.lock: the next run writes it anew"


class _File(Strict, extra="allow"):
    path: str
    md5: MD5 | None = None


class _Entry(Strict, extra="forbid"):
    cmd: str | tuple[str, ...]
    deps: tuple[_File, ...] = ()
    params: dict[str, dict[str, Any]] = {}
    outs: tuple[_File, ...] = ()


class _Lock(Strict, extra="forbid"):
    version: Literal["2.0"] = Field(alias="schema")
    stages: dict[str, _Entry] = {}
    datasets: Any = None


def lock_entries(workspace: Workspace) -> dict:
    """The `stages` of dvc.lock; empty without the file. Raises SettingsError for half a file, as a dying DVC leaves."""
    path = workspace.root / "dvc.lock"
    return entries_of(path) if path.is_file() else {}


def entries_of(path: Path) -> dict:
    """The `stages` of a dvc.lock, in the form that DVC writes. Raises SettingsError for anything else in its place."""
    try:
        content = params_file.read(path)
        parse(_Lock, content, str(path))
    except SettingsError as error:
        raise SettingsError(str(error).splitlines()[0], hint=_BROKEN_HINT) from None
    return content.get("stages") or {}


def watched_files(root: Path) -> list[str]:
    """All files of the code that DVC watches (not only Python ones), relative to `root`, sorted."""
    names = []
    for folder in DECIDES:
        names += _walk(root / folder, root)
    return sorted(names)


def _walk(folder: Path, root: Path) -> list[str]:
    names = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in IGNORED]
        names += [Path(parent, name).relative_to(root).as_posix() for name in files if not name.endswith(".pyc")]
    return names


def view(workspace: Workspace, stage: Stage, params: dict, given: dict, table: StatTable) -> str:
    """Digest of all that DVC compares for this stage: params, code, dvc.yaml, outside inputs, and of its inputs the
    manifests, which an acceptance changes without their data."""
    root, code = workspace.root, workspace.code
    inputs = [root / graph.stage(name).output / manifests.NAME for name in stage.inputs]
    seen = {
        "inputs": [table.sha256(path) if path.is_file() else None for path in inputs],
        "params": {name: params.get(name) for name in stage.params},
        "code": [[name, table.sha256(code / name)] for name in watched_files(code)],
        "dvc.yaml": sha256_file(root / "dvc.yaml"),
        "given": given,
    }
    return sha256_json(seen)


def remember(workspace: Workspace, stage: Stage, key: str, seen: str, entry: dict) -> None:
    """Note that `entry` is the true record of `key` under the view `seen`."""
    write_atomically(workspace.local / "recorded" / f"{stage.name}.json",
                 json.dumps({"key": key, "view": seen, "entry": entry}, sort_keys=True))


def recorded(workspace: Workspace, stage: Stage) -> dict | None:
    """What `remember` noted last: {key, view, entry}; None where that cannot be read."""
    try:
        noted = from_json((workspace.local / "recorded" / f"{stage.name}.json").read_bytes())
    except (OSError, ValueError):
        return None
    return noted if isinstance(noted, dict) else None


def is_recorded(workspace: Workspace, stage: Stage, key: str, seen: str, entry: dict | None) -> bool:
    """Whether dvc.lock is known to hold the true record of `key`."""
    return entry is not None and recorded(workspace, stage) == {"key": key, "view": seen, "entry": entry}


def claims_current(workspace: Workspace, stage: Stage, params: dict, entries: dict, given: set[str]) -> bool:
    """Whether dvc.lock says that nothing the stage depends on has changed: what `dvc status` would conclude.

    False for an entry that is known to be true: it is of another output than the one that lies there, which DVC sees;
    and for one that names what is neither below the checkout nor among the paths `given` from outside.
    """
    entry = entries.get(stage.name)
    if not entry or (recorded(workspace, stage) or {}).get("entry") == entry:
        return False
    values = (entry.get("params") or {}).get("params.yaml") or {}
    if any(values.get(name) != params.get(name) for name in stage.params):
        return False
    upstream = {graph.stage(name).output: entries.get(name) for name in stage.inputs}
    for dep in entry.get("deps") or []:
        path = dep["path"]
        if path in upstream:
            outs = (upstream[path] or {}).get("outs") or [{}]
            if outs[0].get("md5") != dep.get("md5"):
                return False
        elif not (path in given or _is_below(path)) or dvc_md5(workspace.root / path) != dep.get("md5"):
            return False
    return True


def _is_below(path: str) -> bool:
    """Whether a path of dvc.lock leads to something in the checkout that is not the checkout itself."""
    parts = PurePosixPath(os.path.normpath(path)).parts
    return bool(parts) and parts[0] not in ("/", "..", ".git") and max(map(len, parts)) < 256


def dvc_md5(path: Path) -> str | None:
    """The hash DVC gives a file or folder: MD5 of the bytes, or of the sorted JSON list of a folder's files."""
    if path.is_file():
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "md5").hexdigest()
    if not path.is_dir():
        return None
    rows = [{"md5": dvc_md5(path / name), "relpath": name} for name in sorted(_walk(path, path))]
    rows.sort(key=lambda row: tuple(row["relpath"].split("/")))
    return hashlib.md5(json.dumps(rows, sort_keys=True).encode()).hexdigest() + ".dir"
