"""A snapshot: params.yaml, dvc.lock and the data they name, put back as they were."""

import contextlib
from pathlib import Path

from fewstep.util.errors import NotAvailable
from fewstep.util.files import write_atomically
from tasks.config import schema as settings_module
from tasks.engine import graph
from tasks.engine import manifest as manifests
from tasks.engine.plan import restorable, stat_table
from tasks.storage import dvc_lockfile, dvc_repo
from tasks.storage.git import SNAPSHOT, add_worktree, read_at
from tasks.storage.workspace import Workspace


def local_changes(workspace: Workspace, wanted: dict[str, bytes]) -> list[str]:
    """What replacing params.yaml and dvc.lock by `wanted` (name → bytes) would lose, one line each.

    A file counts when it is neither HEAD's nor the wanted one; an output when DVC's cache lacks what lies there.
    """
    lost = []
    for name, content in wanted.items():
        path = workspace.root / name
        present = path.read_bytes() if path.is_file() else None
        if present is None or present == content:
            continue
        try:
            committed = read_at(workspace, "HEAD", name)
        except NotAvailable:
            committed = None
        if present != committed:
            lost.append(f"{name} has changes that are not committed")
    with contextlib.closing(stat_table(workspace)) as table:
        for stage in graph.STAGES:
            folder = workspace.root / stage.output
            if not stage.in_dvc or not folder.exists():
                continue
            manifest = manifests.load_quietly(folder)
            saved = manifest is not None and restorable(workspace, manifest.key) is not None
            if not saved or manifests.problems(folder, manifest, table):
                entry = dvc_lockfile.lock_entries(workspace).get(stage.name) or {"outs": [{}]}
                if dvc_lockfile.dvc_md5(folder) != entry["outs"][0].get("md5"):
                    lost.append(f"{stage.output} is not in DVC's cache as it lies there")
    return lost


def restore(workspace: Workspace, revision: str, wanted: dict[str, bytes], into: Path | None = None) -> Workspace:
    """Puts `wanted`, the contents of git.SNAPSHOT, and the data they name in place; returns the workspace they are in.

    With `into` that is a new worktree of `revision` over the shared cache, else `workspace` itself, whatever it holds:
    `local_changes` says what that loses. Raises NotAvailable when bytes are in neither cache nor remote.
    """
    target = workspace
    if into is not None:
        target = add_worktree(workspace, into, revision)
        dvc_repo.share_cache(workspace, target)
    for name in SNAPSHOT:
        write_atomically(target.root / name, wanted[name])
    dvc_lockfile.sync_given(target, settings_module.load(target.params))
    known = dvc_lockfile.lock_entries(target)
    outputs = [stage.output for stage in graph.STAGES if stage.in_dvc and stage.name in known]
    raw = ["data/raw.dvc"] if (target.root / "data" / "raw.dvc").is_file() else []
    dvc_repo.pull(target, [*outputs, *raw], force=True)
    return target
