"""Restores the state that a registered version came from: its params.yaml, its dvc.lock and the data they name."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fewstep.util.errors import CorruptData, NotAvailable, SettingsError
from fewstep.util.hashing import sha256_file
from tasks.engine import graph
from tasks.engine import manifest as manifests
from tasks.engine.plan import stat_table
from tasks.registry.model_registry import Registry, Version
from tasks.storage import git, snapshots, worktrees
from tasks.storage.locks import workspace_lock
from tasks.storage.workspace import Workspace


@dataclass(frozen=True)
class Restored:
    """`root`: the checkout that now holds the version's state; `outputs`: its verified folders."""

    version: Version
    root: Path
    outputs: tuple[str, ...]


def checkout(registry: Registry, version: Version, *, force: bool = False, into: Path | None = None) -> Restored:
    """Restores the state that `version` came from, here or (`into`) in a new worktree over the same cache.

    Every restored output is verified.

    Raises:
        SettingsError: local changes would be lost and `force` is not given; nothing was changed.
        NotAvailable: bytes are in neither DVC's cache nor its remote.
        DataDiffers: bytes are not those that were registered.
    """
    workspace = registry.workspace
    registry.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="checkout-", dir=registry.folder) as scratch:
        folder = registry.snapshot(version, Path(scratch) / "snapshot")
        wanted = {name: (folder / name).read_bytes() for name in git.SNAPSHOT}
    if into is not None:
        restored = snapshots.restore(workspace, _revision(workspace, version), wanted, into)
        _bring_code(workspace, version, restored)
        return _verified(version, restored)
    with workspace_lock(workspace, f"fewstep checkout {version.name}"):
        lost = [] if force else _lost(registry, wanted)
        if lost:
            more = f" (and {len(lost) - 1} more)" if lost[1:] else ""
            raise SettingsError(f"nothing was restored: {lost[0]}{more}",
                                hint="commit or save it first; or use --force, or --into DIR")  # fmt: skip
        paths = [workspace.root / name for name in git.SNAPSHOT]
        before = {path: path.read_bytes() for path in paths if path.is_file()}
        try:
            snapshots.restore(workspace, _revision(workspace, version), wanted)
        except NotAvailable:
            for path, content in before.items():
                path.write_bytes(content)
            raise
        return _verified(version, workspace)


def _bring_code(workspace: Workspace, version: Version, restored: Workspace) -> None:
    """Let the new worktree use the code that made the version, where that lies apart and is known here."""
    code = version.provenance.code
    if code is not None and git.knows(workspace.code, code.commit):
        restored.use_code(worktrees.add_source(workspace, restored.local / "code-of-version", code.commit))


def _lost(registry: Registry, wanted: dict[str, bytes]) -> list[str]:
    """Local changes that the checkout would destroy, a line each.

    Changed files are not lost when some registered version keeps this very params.yaml and dvc.lock.
    """
    workspace = registry.workspace
    present = {name: sha256_file(workspace.root / name) for name in git.SNAPSHOT if (workspace.root / name).is_file()}
    kept = any(present.items() <= version.provenance.snapshot.items()
               for model in registry.models() for version in registry.versions(model))  # fmt: skip
    return snapshots.local_changes(workspace, {} if kept else wanted)


def _revision(workspace: Workspace, version: Version) -> str:
    """The version's git tag, or the commit it was made at where the tags were not fetched."""
    for revision in (version.git_tag, version.provenance.commit):
        arguments = ("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
        if revision and git.git(workspace.root, *arguments, check=False):
            return revision
    raise NotAvailable(f"git knows neither the tag {version.git_tag} nor the commit {version.name} came from",
                       hint="`git fetch --tags` brings what others tagged")  # fmt: skip


def _verified(version: Version, workspace: Workspace) -> Restored:
    outputs = []
    with contextlib.closing(stat_table(workspace)) as table:
        for name, recorded in version.provenance.stages.items():
            output = graph.stage(name).output
            if manifests.verify(workspace.root / output, table).digest != recorded.digest:
                raise CorruptData(f"{workspace.root / output}: is not the output that {version.name} came from")
            outputs.append(output)
    return Restored(version, workspace.root, tuple(outputs))
