"""What nobody uses any more, in DVC's cache and on its remote."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from fewstep.util.errors import DataDiffers
from fewstep.util.plain_data import from_json
from tasks.storage import published_outputs
from tasks.storage.dvc import cache_users, dvc_lockfile
from tasks.storage.dvc.dvc_repo import dvc_lock, repository
from tasks.storage.git import worktrees
from tasks.storage.workspace import Workspace


def collect_garbage(workspace: Workspace, keep_keys: set[str], *, dry: bool = False) -> dict:
    """Delete from DVC's cache what no checkout, no git tag or branch and none of `keep_keys` uses.

    A cache that lies outside of the repository may serve others: of that only what this repository published goes, and
    nothing that a workspace needs which `fewstep init` gave the same cache.

    Returns {removed, bytes, kept, forgotten}: files (to be) removed and their size; keys kept and forgotten. Worktrees
    of the repository count as checkouts. Raises CorruptData, with nothing deleted, for a damaged note of an output.
    """
    from dvc_data.hashfile.gc import gc  # loads with DVC
    from dvc_data.hashfile.hash_info import HashInfo

    with repository(workspace) as repo, dvc_lock(repo), cache_users.alone_in(workspace):
        used = _recorded(workspace, repo)
        md5s = {path: published_outputs.read_file(path).md5 for path in workspace.published.glob("*.json")}
        used |= {md5 for path, md5 in md5s.items() if path.stem in keep_keys}
        doomed = [path for path, md5 in md5s.items() if md5 not in used]
        kept = len(md5s) - len(doomed)
        odb = repo.cache.local
        others = list(cache_users.others(workspace))
        used |= {md5 for other in others for md5 in _needed_by(other)}
        used = {value for md5 in used for value in _with_members([odb], md5)}
        present = list(odb.all())
        if others or not Path(odb.path).resolve().is_relative_to(workspace.shared.parent.resolve()):
            ours = {value for path in doomed for value in _with_members([odb], md5s[path])}
            used |= {value for value in present if value not in ours}
        removable = [value for value in present if value not in used]
        size = sum(os.path.getsize(odb.oid_to_path(value)) for value in removable)
        if not dry:
            for path in doomed:
                path.unlink()
            gc(odb, {HashInfo("md5", value) for value in used})
        return {"removed": len(removable), "bytes": size, "kept": kept, "forgotten": len(doomed)}


def _needed_by(other: Workspace) -> Iterator[str]:
    """DVC's names of what another workspace has published or restored, and of what its checkouts use."""
    for path in other.published.glob("*.json"):
        yield published_outputs.read_file(path).md5
    for root in worktrees(other):
        yield from _locked(root)


def collect_remote_garbage(workspace: Workspace, doomed: Iterable[str], used: Iterable[str], *,
                           dry: bool = False) -> dict:  # fmt: skip
    """Delete from DVC's default remote the bytes of the outputs `doomed` that none of the outputs `used` has, nor any
    that `recorded` names; DVC's names of folders (md5).

    What is on the remote and belongs to none of `doomed` may be somebody else's, and stays.

    Returns {removed, bytes}: files (to be) removed and their size.
    """
    with repository(workspace) as repo:
        remote = repo.cloud.get_remote_odb(None, "gc")
        places = [repo.cache.local, remote]
        kept = {value for md5 in _recorded(workspace, repo) | set(used) for value in _with_members(places, md5)}
        going = {value for md5 in doomed for value in _with_members(places, md5)} - kept
        paths = [remote.oid_to_path(value) for value in remote.oids_exist(sorted(going))]
        size = sum(remote.fs.size(path) or 0 for path in paths)
        if not dry and paths:
            paths.sort(key=lambda path: not path.endswith(".dir"))      # without its listing a folder is not there
            remote.fs.remove(paths)
        return {"removed": len(paths), "bytes": size}


def needed_objects(workspace: Workspace, keep_keys: set[str], *, far: bool) -> Iterator[tuple[str, Path | None]]:
    """Every object that `collect_garbage` would keep, and where it lies: in the cache or on the default remote, a
    folder; on the remote alone where that is `far`, no folder. None in place of the path: it lies there not.
    """
    with repository(workspace) as repo:
        remotes = [repo.cloud.get_remote_odb(None)] if repo.config.get("core", {}).get("remote") else []
        places = [repo.cache.local, *remotes]
        notes = [note for key in keep_keys if (note := published_outputs.read(workspace, key)) is not None]
        tops = _recorded(workspace, repo) | {note.md5 for note in notes}
        values = sorted({value for md5 in tops for value in _with_members(places, md5)})
        for odb in remotes if far else places:
            there = set(odb.oids_exist(values))
            yield from ((value, Path(odb.oid_to_path(value))) for value in values if value in there)
            values = [value for value in values if value not in there]
        yield from ((value, None) for value in values)


def cache_folder(workspace: Workspace) -> Path:
    """DVC's cache, as a remote that is a folder has the same objects."""
    with repository(workspace) as repo:
        return Path(repo.cache.local.path).parent.parent    # …/files/md5


def recorded(workspace: Workspace) -> set[str]:
    """DVC's names (md5) of what any git tag, branch or checkout of this repository uses."""
    with repository(workspace) as repo:
        return _recorded(workspace, repo)


def _recorded(workspace: Workspace, repo) -> set[str]:
    """DVC's names (md5) of what any git tag, branch or checkout uses; worktrees of the repository are checkouts."""
    found = {info.value for infos in repo.used_objs(all_tags=True, all_branches=True, force=True).values()
             for info in infos}  # fmt: skip
    for root in worktrees(workspace):
        found |= _locked(root)
    return {value for value in found if value}


def _locked(root: Path) -> set[str]:
    """DVC's names of the outputs that a dvc.lock names."""
    entries = dvc_lockfile.lock_entries(Workspace(root)) if (root / "dvc.lock").is_file() else {}
    return {out["md5"] for entry in entries.values() for out in entry.get("outs") or [] if out.get("md5")}


def _with_members(places: list, md5: str) -> Iterator[str]:
    """The output and, for a folder whose listing is in one of the object databases, all its files."""
    yield md5
    for odb in places if md5.endswith(".dir") else []:
        path = odb.oid_to_path(md5)
        if odb.fs.exists(path):
            with odb.fs.open(path, "rb") as file:
                yield from _listed(md5, file.read())
            return


def _listed(md5: str, listing: bytes) -> list[str]:
    try:
        return [str(row["md5"]) for row in from_json(listing)]
    except (ValueError, KeyError, TypeError) as error:
        raise DataDiffers(f"DVC's listing {md5} is damaged ({error}): what its folder needs cannot be told, so nothing "
                          "was deleted", hint="remove it where `dvc pull` can fetch it again") from error
