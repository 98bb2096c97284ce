"""Making a backup: into a folder that is there whole or not at all."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

from fewstep.util.errors import SettingsError
from fewstep.util.files import sync_tree, write_json
from fewstep.util.hashing import sha256_file
from tasks.backup import database_dump
from tasks.backup.contents import (
    CODE_REPOSITORY,
    FILES,
    FOLDERS,
    NAME,
    OBJECTS,
    RECORDS,
    REFERENCES,
    REPOSITORY,
    SHARED,
    Backup,
    BackupFile,
    artifacts,
    databases,
    places,
)
from tasks.storage import git
from tasks.storage.code_state import sources
from tasks.storage.dvc import dvc_config, dvc_garbage
from tasks.storage.file_io import clone_or_copy, list_files
from tasks.storage.sharing.shared_store import shared_store
from tasks.storage.workspace import Workspace
from tasks.tracking.redaction import redact


def back_up(workspace: Workspace, folder: Path, keep_keys: set[str]) -> Backup:
    """Write all that the project is into the new folder `folder`; runs may work meanwhile.

    Args:
        workspace: the project.
        folder: must not exist, or be empty.
        keep_keys: of outputs that are needed, whatever git's tags and branches name.

    Raises:
        SettingsError: there is something in `folder`, or a server's database is not named.
        NotAvailable: a database does not answer.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError(f"{folder}: is not empty", hint="a backup goes into a folder of its own")
    known = databases(workspace)        # before any work
    partial = folder.with_name(f".{folder.name}-{os.getpid()}")
    partial.mkdir(mode=0o700, parents=True)     # what servers keep is not for everybody
    (partial / FILES).mkdir()
    try:
        for name, address in known.named().items():     # first: the files that they name are older
            database_dump.dump(address, partial / name)
        for name in FOLDERS:
            _copy(workspace.shared / name, partial / FILES / name)
        _copy_records(workspace, partial / SHARED)
        code = sources(workspace).origin
        if git.head(workspace.root):
            _bundle(workspace.root, partial / REPOSITORY)
        if code is not None and code.commit:
            _bundle(workspace.code, partial / CODE_REPOSITORY)
        needed, absent = _objects(workspace, keep_keys, partial / OBJECTS)
        made = Backup(created=datetime.now(UTC).isoformat(timespec="seconds"), commit=git.head(workspace.root),
                      code=code, databases=tuple(known.named()), artifacts=artifacts(workspace),
                      remote=_remote(workspace),
                      needed=tuple(sorted(needed)), absent=tuple(sorted(absent)),
                      files=tuple(_described(partial, name) for name in list_files(partial)))
        write_json(partial / NAME, made.model_dump(mode="json"))
        sync_tree(partial)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return made


def _bundle(root: Path, path: Path) -> None:
    references = [reference for pattern in REFERENCES for reference in git.references(root, pattern)]
    git.git(root, "bundle", "create", "--quiet", str(path), "HEAD", "--branches", *references)


def _described(folder: Path, name: str) -> BackupFile:
    return BackupFile(path=name, bytes=(folder / name).stat().st_size, sha256=sha256_file(folder / name))


def _copy(source: Path, target: Path) -> None:
    """Every regular file; what a live process is writing (a lock, a temporary name) may come or be gone."""
    for path, place in places(source, target):
        try:
            clone_or_copy(path, place)
        except FileNotFoundError:
            place.unlink(missing_ok=True)


def _copy_records(workspace: Workspace, target: Path) -> None:
    """The record that hosts have in common: its entries never change."""
    store = shared_store(workspace)
    for name in store.names(RECORDS) if store is not None else []:
        store.download(name, target / name)


def _objects(workspace: Workspace, keep_keys: set[str], target: Path) -> tuple[set[str], set[str]]:
    """DVC's names of what is needed, and those of it that cannot be had. They are copied to `target`, unless the remote
    is an object store."""
    remote = dvc_config.default_remote(workspace)
    far = remote is not None and "://" in remote.url
    needed, absent = set(), set()
    for value, path in dvc_garbage.needed_objects(workspace, keep_keys, far=far):
        needed.add(value)
        if path is None:
            absent.add(value)
        elif not far:
            place = target / "files" / "md5" / value[:2] / value[2:]
            place.parent.mkdir(parents=True, exist_ok=True)
            clone_or_copy(path, place)
    return needed, absent


def _remote(workspace: Workspace) -> str | None:
    remote = dvc_config.default_remote(workspace)
    return redact(remote.url) if remote is not None else None
