"""Finding the bytes of an output made earlier: in the checkout, in DVC's cache, or on its remote."""

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from fewstep.util.errors import DataDiffers, FewstepError, NotAvailable
from fewstep.util.plain_data import from_json
from tasks.engine import graph
from tasks.engine import manifest as manifests
from tasks.storage import published_outputs
from tasks.storage.dvc import dvc_lockfile, dvc_repo
from tasks.storage.file_io import clone_or_copy
from tasks.storage.published_outputs import restorable
from tasks.storage.workspace import Workspace


def locate(workspace: Workspace, stage: str, digest: str, md5: str | None, scratch: Path,
           key: str | None = None) -> tuple[Path, str]:
    """A folder that holds the output of `stage` with this manifest digest, and where it was: `workspace` or `cache`.

    `md5` is what dvc.lock called it. What is not in the checkout is copied into `scratch`. With `key` it must be the
    very output that was made under it: other code may have made the same bytes again since. Nothing is verified here.
    Raises NotAvailable when it is nowhere, DataDiffers when what is there cannot be read as that output.
    """
    folder = workspace.root / graph.stage(stage).output
    present = manifests.load(folder) if (folder / manifests.NAME).is_file() else None
    if present is not None and present.digest == digest and key in (None, present.key):
        return folder, "workspace"
    if md5 is None:
        raise NotAvailable(f"the output of stage '{stage}' is not in this checkout, and no dvc.lock names it")
    target = scratch / f"{stage}-{digest[:16]}"
    if not target.is_dir():
        from_cache(workspace, md5, target)
    found = manifests.load(target)
    if found is None or found.digest != digest:
        raise DataDiffers(f"what DVC keeps as {graph.stage(stage).output} of this version is another output")
    return target, "cache"


def locked_md5(lock: Path, path: str, kind: str = "outs") -> str | None:
    """What a dvc.lock calls the output at `path` (`kind` deps: the input); None where it does not say.

    Raises SettingsError for a file that is no dvc.lock.
    """
    stages = dvc_lockfile.entries_of(lock) if lock.is_file() else {}
    rows = [row for entry in stages.values() for row in entry.get(kind) or [] if row["path"] == path]
    return rows[0].get("md5") if rows else None


def from_cache(workspace: Workspace, md5: str, target: Path) -> Path:
    """Copies the folder or file that DVC knows as `md5` to the new path `target`; what the cache lacks is pulled.

    Raises NotAvailable when neither cache nor remote has it.
    """
    with dvc_repo.repository(workspace) as repo:
        store = Path(repo.cache.local.path)

    def place(name: str) -> Path:
        return store / name[:2] / name[2:]

    target.parent.mkdir(parents=True, exist_ok=True)
    _pull(workspace, [md5], place)
    if not md5.endswith(".dir"):
        clone_or_copy(place(md5), target)
        return target
    try:
        rows = from_json(place(md5).read_bytes())
        paths = [(PurePosixPath(row["relpath"]), row["md5"]) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise DataDiffers(f"DVC's listing {md5} is damaged ({error})", hint="`dvc pull` fetches it again") from error
    _pull(workspace, [name for _, name in paths], place)
    target.mkdir(exist_ok=True)
    for relative, name in paths:
        if relative.is_absolute() or ".." in relative.parts:
            raise DataDiffers(f"DVC's listing {md5} names a path outside of the folder: {relative}")
        path = target / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        clone_or_copy(place(name), path)
    return target


def _pull(workspace: Workspace, names: list[str], place: Callable[[str], Path]) -> None:
    absent = [name for name in names if not os.path.exists(place(name))]
    if not absent:
        return
    try:
        dvc_repo.fetch(workspace, absent)
    except NotAvailable:
        raise
    except FewstepError as error:
        raise NotAvailable(f"neither DVC's cache nor its remote has {len(absent)} of the files: {error}") from error
    still = sum(not os.path.exists(place(name)) for name in absent)
    if still:
        raise NotAvailable(f"neither DVC's cache nor its remote has {still} of the files")


def materialise(workspace: Workspace, key: str, target: Path) -> None:
    """Copy the output known under `key` from DVC's cache, or its remote, into the new folder `target`.

    Raises NotAvailable when it is in neither. The caller verifies the bytes.
    """
    known = restorable(workspace, key)
    if known is None:
        raise NotAvailable(f"no output of key {key[:12]} is known here")
    from_cache(workspace, known.md5, target)
    published_outputs.write(workspace, known, key)      # another workspace may have made it, and may forget it
