"""dvc.lock as plain data: what DVC claims about a stage, and whether we know the claim to be true. DVC is not imported.

`recorded/<stage>.json` remembers, for each stage, the entry of dvc.lock that was found true, for which key, and under
which state of everything DVC looks at. While all of it is as it was, there is no need to ask DVC.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

from fewstep.util.errors import SettingsError
from fewstep.util.files import write_atomically
from fewstep.util.hashing import sha256_file
from tasks.config import schema as settings_module
from tasks.engine import graph
from tasks.engine.manifest import canonical
from tasks.storage.workspace import Workspace

PLAIN = r"[A-Za-z0-9_./-]+"
IGNORED = ("__pycache__",)
_BROKEN_HINT = "remove dvc.lock: the next run writes it anew"
NONE_GIVEN = "fewstep/__init__.py"      # stands in dvc.yaml where the settings bring in nothing from outside


def lock_entries(workspace: Workspace) -> dict:
    """The `stages` of dvc.lock; empty without the file. Raises SettingsError for half a file, as a dying DVC leaves."""
    path = workspace.root / "dvc.lock"
    if not path.is_file():
        return {}
    try:
        content = settings_module.read(path)
    except SettingsError as error:
        raise SettingsError(str(error), hint=_BROKEN_HINT) from None
    if "schema" not in content:
        raise SettingsError(f"{path}: not whole, for it names no schema", hint=_BROKEN_HINT)
    return content.get("stages") or {}


def declared_files(stage: graph.Stage, root: Path) -> list[str]:
    """All files that DVC sees in the stage's modules (not only Python ones), relative to `root`, sorted."""
    found = []
    for name in stage.modules:
        found += _walk(root / name, root) if (root / name).is_dir() else [name] * (root / name).is_file()
    return sorted(found)


def _walk(folder: Path, root: Path) -> list[str]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in IGNORED]
        found += [Path(parent, name).relative_to(root).as_posix() for name in names if not name.endswith(".pyc")]
    return found


def view(workspace: Workspace, stage: graph.Stage, params: dict, given: dict) -> str:
    """Digest of all that DVC compares for this stage, data folders apart: params, code, dvc.yaml, outside inputs."""
    root = workspace.root
    seen = {
        "params": {name: params.get(name) for name in stage.params},
        "code": [[name, sha256_file(root / name)] for name in declared_files(stage, root)],
        "dvc.yaml": sha256_file(root / "dvc.yaml"),
        "given": given,
    }
    return hashlib.sha256(canonical(seen)).hexdigest()


def remember(workspace: Workspace, stage: graph.Stage, key: str, seen: str, entry: dict) -> None:
    """Note that `entry` is the true record of `key` under the view `seen`."""
    write_atomically(workspace.local / "recorded" / f"{stage.name}.json",
                 json.dumps({"key": key, "view": seen, "entry": entry}, sort_keys=True))


def recorded(workspace: Workspace, stage: graph.Stage) -> dict | None:
    """What `remember` noted last: {key, view, entry}."""
    try:
        return json.loads((workspace.local / "recorded" / f"{stage.name}.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def is_recorded(workspace: Workspace, stage: graph.Stage, key: str, seen: str, entry: dict | None) -> bool:
    """Whether dvc.lock is known to hold the true record of `key`."""
    return entry is not None and recorded(workspace, stage) == {"key": key, "view": seen, "entry": entry}


def claims_current(workspace: Workspace, stage: graph.Stage, params: dict, entries: dict) -> bool:
    """Whether dvc.lock says that nothing the stage depends on has changed: what `dvc status` would conclude."""
    entry = entries.get(stage.name)
    if not entry or (recorded(workspace, stage) or {}).get("entry") == entry:
        return False    # known to be true, of another output than the one that lies there: DVC will see that
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
        elif dvc_md5(workspace.root / path) != dep.get("md5"):
            return False
    return True


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


def sync_given(workspace: Workspace, settings: settings_module.Settings) -> bool:
    """Let dvc.yaml name what the settings bring in from outside as dependencies; returns whether it was changed.

    The block `given:` under `vars:` has one line per outside input; one that is not used names a file that is always
    there, since DVC knows no optional dependency.
    """
    path = workspace.root / "dvc.yaml"
    text = wanted = path.read_text()
    for name, outside in graph.given(settings, workspace.root).items():
        value = NONE_GIVEN
        if outside is not None:
            outside = Path(os.path.abspath(outside))
            inside = outside.is_relative_to(workspace.root)
            value = outside.relative_to(workspace.root).as_posix() if inside else str(outside)
        line = f"      {name}: {value if re.fullmatch(PLAIN, value) else json.dumps(value)}"
        wanted = re.sub(rf"^      {name}: .*$", lambda _, line=line: line, wanted, count=1, flags=re.M)
    if wanted != text:
        write_atomically(path, wanted)
    return wanted != text
