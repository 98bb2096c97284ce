"""Putting a backup into an empty project."""

from __future__ import annotations

import os
from pathlib import Path

from fewstep.util.errors import CorruptData, NotAvailable, SettingsError
from fewstep.util.hashing import sha256_file
from tasks.backup import database_dump
from tasks.backup.contents import (
    CODE_REPOSITORY,
    FILES,
    FOLDERS,
    NAME,
    OBJECTS,
    OWN_REFERENCES,
    REFERENCES,
    REPOSITORY,
    SHARED,
    Backup,
    artifacts,
    databases,
    inside,
    places,
)
from tasks.storage import git
from tasks.storage.documents import read_document
from tasks.storage.dvc import dvc_config, dvc_garbage
from tasks.storage.file_io import clone_or_copy, list_files
from tasks.storage.sharing.shared_store import shared_store
from tasks.storage.workspace import Workspace
from tasks.tracking.redaction import redact
from tasks.tracking.store_uri import missing_database, sqlite_file


def restore(workspace: Workspace, folder: Path) -> Backup:
    """Put the backup in `folder` into the project, a checkout in which nothing was ever run; the caller locks it.

    Git's tags and what led to outputs are brought; files that the checkout has, and its branch, stay as they are.

    Raises:
        NotAvailable: there is no backup.
        CorruptData: a file differs from its checksum, or is missing. Nothing was changed.
        SettingsError: the project is not empty, or a server's database is not named. Nothing was changed.
    """
    said = _checked(folder)
    known = databases(workspace, existing=False).named()
    _require_empty(workspace, {name: known[name] for name in said.databases})
    if (folder / REPOSITORY).is_file():
        git.git(workspace.root, "fetch", "--quiet", str((folder / REPOSITORY).resolve()),
                *(f"{pattern}:{pattern}" for pattern in REFERENCES))
    if (folder / CODE_REPOSITORY).is_file() and not workspace.holds_code:   # which another workspace may have filled
        git.git(workspace.code, "fetch", "--quiet", str((folder / CODE_REPOSITORY).resolve()),
                f"+{OWN_REFERENCES}:{OWN_REFERENCES}")
    for name in FOLDERS:
        _copy(folder / FILES / name, workspace.shared / name)
    _copy(folder / OBJECTS, _object_folder(workspace))
    for name in said.databases:
        database_dump.load(folder / name, known[name])
    _bring_records(workspace, folder / SHARED)
    _relocate(workspace, said, known.get("mlflow"))
    return said


def _checked(folder: Path) -> Backup:
    """What backup.json says, every byte of the backup read now."""
    path = folder / NAME
    if not path.is_file():
        raise NotAvailable(f"{folder}: there is no {NAME}, so this is no backup, or none that was finished")
    said = read_document(Backup, path.read_bytes(), path)
    for file in said.files:
        place = inside(folder, file.path)
        if not place.is_file():
            raise CorruptData(f"{place}: is missing")
        if sha256_file(place) != file.sha256:
            raise CorruptData(f"{place}: its bytes differ from its checksum")
    return said


def _require_empty(workspace: Workspace, known: dict[str, str]) -> None:
    present = [workspace.shared / name for name in FOLDERS if any((workspace.shared / name).glob("**/*"))]
    present += [path for address in known.values()
                if (path := sqlite_file(address)) is not None and missing_database(address) is None]
    if present:
        raise SettingsError(f"{present[0]} is there already: a backup goes into a project in which nothing was run",
                            hint="restore it in a new clone")


def _copy(source: Path, target: Path) -> None:
    for path, place in places(source, target):
        if not place.exists():      # an object under its hash
            clone_or_copy(path, place)


def _bring_records(workspace: Workspace, source: Path) -> None:
    """Entries that the shared record lacks; what stands there is not written over."""
    store = shared_store(workspace)
    for name in list_files(source) if store is not None and source.is_dir() else []:
        store.put_if_absent(name, (source / name).read_bytes())


def _object_folder(workspace: Workspace) -> Path:
    """Where objects of the backup go: DVC's remote if that is a folder, else its cache."""
    remote = dvc_config.default_remote(workspace)
    if remote is not None and "://" not in remote.url:
        return Path(os.path.normpath(workspace.root / ".dvc" / remote.url))
    return dvc_garbage.cache_folder(workspace)


def _relocate(workspace: Workspace, said: Backup, mlflow: str | None) -> None:
    """MLflow's database names its files by absolute addresses: from here on, those of this project."""
    here, database = artifacts(workspace), None if mlflow is None else sqlite_file(mlflow)
    if said.artifacts is None or here in (None, said.artifacts):
        return
    if database is None:
        raise SettingsError(f"MLflow's files were kept in {said.artifacts}; {redact(mlflow or '')} cannot be told that "
                            f"they are in {here} now", hint="restore it where the files lay")
    database_dump.relocate(database, said.artifacts, here)
