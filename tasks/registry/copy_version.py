"""A version in another store's registry: its bytes are copied and verified there, so that it needs the first no more.

MLflow's own `copy_model_version` copies a pointer; when the source's files are collected as garbage, the copy is gone.
"""

import hashlib
import json
import tempfile
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from fewstep.util.errors import SettingsError
from tasks.registry import register_model
from tasks.registry.model_registry import Registry, Version
from tasks.storage import git
from tasks.storage.file_io import list_files
from tasks.tracking.metric_buffer import numbers
from tasks.tracking.mlflow_client import Tracking
from tasks.tracking.redaction import redact

_OWN = ("decision", "snapshot", "origin")  # tags that belong to a version where it lies


def open_store(workspace, uri: str) -> Registry:
    """The registry in the MLflow store at `uri`: a server's address, or a database whose files lie beside it.

    Its record of decisions is kept in this repository under a name of its own. Raises SettingsError for another scheme.
    """
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme not in ("http", "https", "sqlite", "postgresql", "mysql"):
        raise SettingsError(f"--registry {redact(uri)}: expected the address of an MLflow server, or sqlite:///PATH")
    shared, artifacts = Path(workspace.shared), None
    if scheme == "sqlite":
        artifacts = (Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts").as_uri()
    folder = shared / "registries" / hashlib.sha256(redact(uri).encode()).hexdigest()[:16]
    return Registry(workspace, Tracking(uri, artifacts, shared / "locks"), folder)


def copy(source: Registry, version: Version, target: Registry) -> Version:
    """The same weights and evaluation as a version of `target`, made where it is missing; killed and called again it
    ends in one version.

    Every byte is verified before it is copied and where it arrived. The new version is that registry's candidate.
    Raises DataDiffers or NotAvailable.
    """
    target.folder.mkdir(parents=True, exist_ok=True)
    pipeline = source.pipeline(version)
    with tempfile.TemporaryDirectory(prefix="copy-", dir=target.folder) as scratch:
        files = source.snapshot(version, Path(scratch) / "snapshot")
        own = {key.removeprefix("fewstep."): value for key, value in version.tags.items() if key.startswith("fewstep.")}
        tags = {key: value for key, value in own.items() if key not in _OWN}
        tags["origin"] = json.dumps({"store": redact(source.tracking.uri), "version": version.name})
        results, root = version.json("results"), source.workspace.root
        made, _ = register_model.register(register_model.Registration(
            registry=target, model=version.model, experiment=version.model.removeprefix("fewstep-"),
            weights=tags["weights"], evaluation=tags["evaluation"], student=pipeline,
            snapshot={name: files / name for name in list_files(files)}, tags=tags,
            metrics=numbers({name: results[name] for name in ("student", "comparison", "floors") if name in results}),
            tag_snapshot=partial(git.tag_snapshot, root) if git.head(root)[0] else None,
        ))  # fmt: skip
    target.pipeline(made)
    return made
