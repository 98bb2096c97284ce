"""Putting back a snapshot: params.yaml, dvc.lock and the data that they name."""

import contextlib
from pathlib import Path

from fewstep.util.errors import NotAvailable
from fewstep.util.files import write_atomically
from tasks.config import params_file
from tasks.engine import graph
from tasks.engine import manifest as manifests
from tasks.engine.plan import stat_table
from tasks.storage.dvc import dvc_lockfile, dvc_repo, dvc_yaml
from tasks.storage.git import SNAPSHOT, add_worktree, read_at
from tasks.storage.published_outputs import restorable
from tasks.storage.workspace import Workspace


def local_changes(workspace: Workspace, wanted: dict[str, bytes]) -> list[str]:
    """What would be lost if params.yaml and dvc.lock were replaced by `wanted` (name → bytes), one line each.

    A file is lost if it equals neither HEAD's nor the wanted one, an output if DVC's cache does not hold its bytes.
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
                outs = dvc_lockfile.lock_entries(workspace).get(stage.name, {}).get("outs") or [{}]
                if dvc_lockfile.dvc_md5(folder) != outs[0].get("md5"):
                    lost.append(f"{stage.output} is not in DVC's cache as it lies there")
    return lost


def restore(workspace: Workspace, revision: str, wanted: dict[str, bytes], into: Path | None = None) -> Workspace:
    """Put the files of a snapshot and the data that they name in place.

    Args:
        workspace: the checkout. Without `into` its own files are replaced (`local_changes` says what that loses).
        revision: commit or tag of the new worktree.
        wanted: content of the files that git.SNAPSHOT names.
        into: folder of a new worktree over the shared cache, which must not exist or be empty.

    Returns:
        The workspace that now holds the snapshot.

    Raises:
        NotAvailable: bytes are in neither cache nor remote.
    """
    target = workspace
    if into is not None:
        target = add_worktree(workspace, into, revision)
        dvc_repo.share_cache(workspace, target)
    for name in SNAPSHOT:
        write_atomically(target.root / name, wanted[name])
    dvc_yaml.sync_given(target, params_file.load(target.params))
    known = dvc_lockfile.lock_entries(target)
    outputs = [stage.output for stage in graph.STAGES if stage.in_dvc and stage.name in known]
    raw = ["data/raw.dvc"] if (target.root / "data" / "raw.dvc").is_file() else []
    dvc_repo.pull(target, [*outputs, *raw], force=True)
    return target
