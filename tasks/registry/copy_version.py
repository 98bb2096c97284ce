"""A version in another store's registry: its bytes are copied and verified there, so that it needs the first no more.

MLflow's `copy_model_version` copies a pointer; when the source's files are collected as garbage, the copy is gone.
"""

from __future__ import annotations

import hashlib
import tempfile
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from fewstep.util.errors import SettingsError
from tasks.registry import register_model
from tasks.registry.model_registry import Registry, Version
from tasks.registry.version_tags import Origin
from tasks.storage import git
from tasks.storage.file_io import list_files
from tasks.storage.workspace import Workspace
from tasks.tracking.mlflow_client import Tracking
from tasks.tracking.redaction import redact
from tasks.tracking.store_uri import sqlite_file


def open_store(workspace: Workspace, uri: str | None) -> Registry:
    """The registry in the MLflow store at `uri`: a server's address, or a database whose files lie beside it; without
    one the workspace's own.

    Its audit logs are kept in this repository, in a folder named by the address. Raises SettingsError for another
    scheme.
    """
    if not uri:
        return Registry(workspace)
    if urlsplit(uri).scheme.partition("+")[0] not in ("http", "https", "sqlite", "postgresql", "mysql"):
        raise SettingsError(f"--registry {redact(uri)}: expected the address of an MLflow server, or sqlite:///PATH")
    path = sqlite_file(uri)
    artifacts = None if path is None else (path.resolve().parent / "mlartifacts").as_uri()
    folder = workspace.shared / "registries" / hashlib.sha256(redact(uri).encode()).hexdigest()[:16]
    return Registry(workspace, Tracking(uri, artifacts, workspace.shared / "locks"), folder)


def copy(source: Registry, version: Version, target: Registry) -> Version:
    """The version of `target` with the same weights and evaluation, made where it is missing.

    Killed and called again it ends in one version. Every byte is verified before it is copied and where it arrived. The
    new version is that registry's candidate. Raises DataDiffers or NotAvailable.
    """
    target.folder.mkdir(parents=True, exist_ok=True)
    pipeline, root = source.pipeline(version), source.workspace.root
    with tempfile.TemporaryDirectory(prefix="copy-", dir=target.folder) as scratch:
        files = source.snapshot(version, Path(scratch) / "snapshot")
        origin = Origin(store=redact(source.tracking.uri), version=version.name)
        made, _ = register_model.register(register_model.Registration(
            registry=target, model=version.model, experiment=version.model.removeprefix("fewstep-"), student=pipeline,
            snapshot={name: files / name for name in list_files(files)},
            tags=version.provenance.model_copy(update={"origin": origin}),
            tag_snapshot=partial(git.tag_snapshot, root) if git.head(root) else None,
        ))  # fmt: skip
    target.pipeline(made)
    return made
