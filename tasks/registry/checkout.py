"""Back to where a registered version came from: its params.yaml, its dvc.lock and the data they name."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from fewstep.util.errors import NotAvailable, SettingsError
from fewstep.util.hashing import sha256_file
from tasks.engine import graph
from tasks.engine import manifest as manifests
from tasks.engine.plan import stat_table
from tasks.registry.model_registry import Registry, Version
from tasks.storage import git, snapshots
from tasks.storage.locks import workspace_lock


@dataclass(frozen=True)
class Restored:
    """`root`: the checkout that now holds the version's state; `outputs`: its verified folders."""

    version: Version
    root: Path
    outputs: tuple[str, ...]


def checkout(registry: Registry, version: Version, *, force: bool = False, into: Path | None = None) -> Restored:
    """Restores the state that `version` came from, here or (`into`) in a new worktree over the same cache.

    Raises SettingsError before anything changes when local changes would be lost and `force` is not given,
    NotAvailable when bytes are in neither DVC's cache nor its remote, DataDiffers when what came is not what was
    registered. Every restored output is verified.
    """
    workspace = registry.workspace
    registry.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="checkout-", dir=registry.folder) as scratch:
        folder = registry.snapshot(version, Path(scratch) / "snapshot")
        wanted = {name: (folder / name).read_bytes() for name in git.SNAPSHOT}
    if into is not None:
        target = snapshots.restore(workspace, _revision(workspace, version), wanted, into)
        return _verified(version, target)
    with workspace_lock(workspace, f"fewstep checkout {version.name}"):
        lost = [] if force else _lost(registry, wanted)
        if lost:
            more = f" (and {len(lost) - 1} more)" if lost[1:] else ""
            raise SettingsError(f"nothing was restored: {lost[0]}{more}",
                                hint="commit or save it first; or use --force, or --into DIR")  # fmt: skip
        before = {name: _read(workspace.root / name) for name in git.SNAPSHOT}
        try:
            snapshots.restore(workspace, _revision(workspace, version), wanted)
        except NotAvailable:
            for name, content in before.items():
                if content is not None:
                    (workspace.root / name).write_bytes(content)
            raise
        return _verified(version, workspace)


def _lost(registry: Registry, wanted: dict[str, bytes]) -> list[str]:
    """What would be lost. A pair of files that a registered version keeps is not."""
    workspace = registry.workspace
    lost = snapshots.local_changes(workspace, wanted)
    here = {name: sha256_file(workspace.root / name) for name in git.SNAPSHOT if (workspace.root / name).is_file()}
    kept = any(here.items() <= version.json("snapshot").items()
               for model in registry.models() for version in registry.versions(model))  # fmt: skip
    return [line for line in lost if not (kept and line.startswith(git.SNAPSHOT))]


def _revision(workspace, version: Version) -> str:
    """The version's git tag, or the commit it was made at where the tags were not fetched."""
    for revision in (version.git_tag, version.tags.get("fewstep.commit", "")):
        arguments = ("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
        if revision and git.git(workspace.root, *arguments, check=False):
            return revision
    raise NotAvailable(f"git knows neither the tag {version.git_tag} nor the commit {version.name} came from",
                       hint="`git fetch --tags` brings what others tagged")  # fmt: skip


def _verified(version: Version, workspace) -> Restored:
    table = stat_table(workspace)
    try:
        found = []
        for name, entry in version.inputs.items():
            folder = workspace.root / graph.stage(name).output
            manifest = manifests.verify(folder, table)
            if manifest.digest != entry["digest"]:
                raise manifests.CorruptData(f"{folder}: is not the output that {version.name} came from")
            found.append(graph.stage(name).output)
        return Restored(version, workspace.root, tuple(found))
    finally:
        table.close()


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
