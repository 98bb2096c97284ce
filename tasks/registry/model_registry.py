"""The model registry: names, versions, aliases, and bytes that are verified before anybody uses them.

A version's tags (tasks.registry.version_tags) say what it was made of, the files it came from are artifacts of its run,
and the exported student lies in the registered MLflow model. Aliases: `candidate` (newest registered), `champion`,
`previous`.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fewstep.util.errors import DataDiffers, FewstepError, NotAvailable, SettingsError
from fewstep.util.files import sync_folder
from fewstep.util.hashing import sha256_file
from tasks.engine.manifest import File, tree_digest
from tasks.registry.carried_record import carry_over
from tasks.registry.record import FileRecord, Record
from tasks.registry.shared_record import SharedRecord
from tasks.registry.version_tags import VersionTags, read_tags
from tasks.storage.file_io import list_files
from tasks.storage.locks import held
from tasks.storage.sharing.shared_store import is_shared, shared_store
from tasks.storage.workspace import Workspace
from tasks.tracking.mlflow_client import ModelVersion, Tracking, all_pages, if_present
from tasks.tracking.store_uri import sqlite_file

PREFIX = "fewstep-"
CHAMPION, CANDIDATE, PREVIOUS = "champion", "candidate", "previous"
SNAPSHOT = "snapshot"  # the artifact folder with params.yaml, dvc.lock, manifests, metrics and the grid
PIPELINE = "artifacts/pipeline"  # where MLflow puts the exported student inside a registered model
_REFERENCE = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?:@(?P<alias>[A-Za-z][A-Za-z0-9_-]*)|/v?(?P<version>[0-9]+))?$")


@dataclass(frozen=True)
class Version:
    """A registered version.

    Attributes:
        tags: all tags as MLflow holds them; `provenance` is those that say what it was made of.
        aliases: those it held at the time of asking.
        run_id: MLflow run that holds its snapshot; None for a version that was not registered here.
        source: address of its MLflow model.
    """

    model: str
    number: int
    tags: dict[str, str]
    aliases: tuple[str, ...]
    run_id: str | None
    source: str

    @property
    def name(self) -> str:
        return f"{self.model}/{self.number}"

    @property
    def git_tag(self) -> str:
        """Names the version and its registered model: a clone may bring the tags of another registry's version 1."""
        return f"fewstep/{self.model}/v{self.number}-{hashlib.sha256(self.source.encode()).hexdigest()[:8]}"

    @cached_property
    def provenance(self) -> VersionTags:
        """What the version was made of. Raises DataDiffers naming the tag that is damaged."""
        return read_tags(self.tags, self.name)


def model_name(name: str) -> str:
    """`digits` → `fewstep-digits`; a full name stays."""
    return name if name.startswith(PREFIX) else PREFIX + name


def parse(reference: str) -> tuple[str, str | None, int | None]:
    """`NAME`, `NAME@ALIAS` or `NAME/VERSION` → (model, alias, number). Raises SettingsError for anything else."""
    match = _REFERENCE.match(reference)
    if not match:
        raise SettingsError(f"{reference!r} names no model: expected NAME, NAME@ALIAS or NAME/VERSION, "
                            "such as digits@champion or digits/3")  # fmt: skip
    version = match["version"]
    return model_name(match["name"]), match["alias"], int(version) if version else None


def parse_whole(reference: str, command: str, hint: str) -> str:
    """The model that is named. Raises SettingsError, with `hint`, for one of its versions: `command` takes all."""
    name, alias, number = parse(reference)
    if alias or number:
        raise SettingsError(f"{reference!r}: {command} takes a model's name, such as {name.removeprefix('fewstep-')}",
                            hint=hint)
    return name


def folder_digest(folder: Path) -> str:
    """Tree digest of all files in `folder`, every byte read now."""
    paths = {name: folder / name for name in list_files(folder)}
    return tree_digest([File(path=name, bytes=path.stat().st_size, sha256=sha256_file(path))
                        for name, path in paths.items()])


class Registry:
    """The registry that a workspace's settings point to, or the one behind `tracking` with its records in `folder`."""

    def __init__(self, workspace: Workspace, tracking: Tracking | None = None, folder: Path | None = None):
        self.workspace = workspace
        self.tracking = tracking or Tracking.of(workspace)
        self.folder = folder or workspace.shared / "registry"
        self._records: dict[str, Record] = {}

    # reading

    def models(self) -> list[str]:
        """Names of all registered models of ours."""
        models = all_pages(self.tracking.client.search_registered_models, max_results=100)
        return sorted(model.name for model in models if model.name.startswith(PREFIX))

    def aliases(self, model: str) -> dict[str, int]:
        """Alias → version number; empty for an unknown model. MLflow reads every version for it: who asks for one alias
        asks `holder`."""
        registered = if_present(self.tracking.client.get_registered_model, model)
        return {} if registered is None else {alias: int(number) for alias, number in registered.aliases.items()}

    def holder(self, model: str, alias: str) -> int | None:
        """The number of the version that holds the alias; None where none does."""
        entry = self._held(model, alias)
        return None if entry is None else int(entry.version)

    def _held(self, model: str, alias: str) -> ModelVersion | None:
        if alias.lower() == "latest":       # MLflow's word for the newest version, which is no alias
            return None
        try:
            return if_present(self.tracking.client.get_model_version_by_alias, model, alias)
        except NotAvailable:
            raise
        except FewstepError:        # MLflow refuses an alias that is not there as it does bad words: the list decides
            number = self.aliases(model).get(alias)     # set by another host meanwhile, it is there by now
            return None if number is None else self.tracking.client.get_model_version(model, str(number))

    def registration_runs(self, model: str) -> Iterator[str]:
        """The MLflow runs that registered the model's versions, of the oldest version first; read as they are asked
        for."""
        token = None
        while token != "":
            page = self.tracking.client.search_model_versions(
                f"name='{model}'", max_results=20, order_by=["version_number ASC"], page_token=token)  # fmt: skip
            yield from (entry.run_id for entry in page if entry.run_id)
            token = page.token or ""

    def versions(self, model: str) -> list[Version]:
        """All versions, oldest first; empty for an unknown model."""
        aliases = self.aliases(model)
        entries = all_pages(self.tracking.client.search_model_versions, f"name='{model}'", max_results=200)
        for entry in entries:       # a search leaves them out
            entry.aliases = [alias for alias, number in aliases.items() if number == int(entry.version)]
        return sorted(map(_version, entries), key=lambda version: version.number)

    def get(self, model: str, number: int) -> Version:
        """Raises NotAvailable when there is no such version."""
        entry = if_present(self.tracking.client.get_model_version, model, str(number))
        if entry is None:
            known = ", ".join(str(version.number) for version in self.versions(model)) or "none"
            raise NotAvailable(f"{model} has no version {number} (versions: {known})")
        return _version(entry)

    def resolve(self, reference: str, default: str = CHAMPION) -> Version:
        """The version that `reference` names; a bare name means its `default` alias.

        Raises SettingsError for a malformed reference and NotAvailable for an unknown model, alias or version.
        """
        model, alias, number = parse(reference)
        if number is not None:
            return self.get(model, number)
        alias = alias or default
        entry = self._held(model, alias)
        if entry is not None:
            return _version(entry)
        aliases = self.aliases(model)
        if aliases or self.versions(model):
            known = ", ".join(sorted(aliases)) or "none"
            raise NotAvailable(f"{model} has no alias {alias!r} (aliases: {known})")
        known = ", ".join(name.removeprefix(PREFIX) for name in self.models()) or "none"
        raise NotAvailable(f"no model {model!r} is registered (models: {known})",
                           hint="`fewstep run` registers one at its end")  # fmt: skip

    def champion_made(self, model: str) -> float | None:
        """When the model's champion was registered, in seconds since 1970; None without one."""
        entry = self._held(model, CHAMPION)
        return None if entry is None else entry.creation_timestamp / 1000

    def with_tag(self, model: str, **tags: str) -> list[Version]:
        """Versions whose tags `fewstep.<name>` have all of these values, oldest first."""
        wanted = [f"name='{model}'", *(f"tags.`fewstep.{key}` = '{value}'" for key, value in tags.items())]
        found = all_pages(self.tracking.client.search_model_versions, " and ".join(wanted), max_results=200)
        return [self.get(model, number) for number in sorted(int(entry.version) for entry in found)]

    def record(self, model: str) -> Record:
        """The model's audit log: in the object store that hosts share, where they share the registry too, else a file.

        In that store it is named by the model and the moment at which MLflow made it, which every host reads the same;
        several registries may share one store. What this host kept in the file before is carried into it first.
        """
        if model not in self._records:
            registered = if_present(self.tracking.client.get_registered_model, model) if self._is_shared else None
            if registered is None:      # nothing that could be decided about, or decided by this host alone
                return FileRecord(self.folder / model)
            name = f"{model}-{registered.creation_timestamp}"
            record = SharedRecord(shared_store(self.workspace), name)
            carry_over(self, model, record)
            self._records[model] = record
        return self._records[model]

    @property
    def _is_shared(self) -> bool:
        return sqlite_file(self.tracking.uri) is None and is_shared(self.workspace)

    # bytes

    def snapshot(self, version: Version, into: Path) -> Path:
        """Downloads the files that the version came from to the new folder `into`; returns the folder that holds them.

        Raises NotAvailable for a file that is missing and DataDiffers for one that was changed.
        """
        if not version.run_id:
            raise NotAvailable(f"{version.name} has no run in MLflow, so its params.yaml and dvc.lock are not recorded")
        into.mkdir(parents=True, exist_ok=True)
        folder = Path(self.tracking.client.download_artifacts(version.run_id, SNAPSHOT, str(into)))
        for name, digest in version.provenance.snapshot.items():
            path = folder / name
            if not path.is_file():
                raise NotAvailable(f"{version.name}: {name} is missing in MLflow's artifacts")
            if sha256_file(path) != digest:
                raise DataDiffers(f"{version.name}: {name} in MLflow's artifacts is not what was registered")
        return folder

    def pipeline(self, version: Version) -> Path:
        """A local folder with the exported student, its tree digest verified now; a copy that was damaged on this disk
        is fetched anew.

        Raises DataDiffers when the bytes are not those registered, NotAvailable when they cannot be had.
        """
        expected = version.provenance.weights
        if not expected:
            raise DataDiffers(f"{version.name} carries no weights digest, so its bytes cannot be verified",
                              hint="only versions registered by fewstep can be used")  # fmt: skip
        folder, is_copy = self._fetch(version, expected)
        present = folder_digest(folder)
        if present != expected and is_copy:
            shutil.rmtree(folder)
            folder, _ = self._fetch(version, expected)
            present = folder_digest(folder)
        if present != expected:
            if is_copy:
                shutil.rmtree(folder)
            raise DataDiffers(f"{version.name}: the registered weights differ from what was registered "
                              f"(tree digest {present[:12]}, expected {expected[:12]}) in {folder}")  # fmt: skip
        return folder

    def _fetch(self, version: Version, digest: str) -> tuple[Path, bool]:
        """The folder with the exported student, and whether it is a copy that was downloaded."""
        uri = self.tracking.client.get_model_version_download_uri(version.model, str(version.number))
        parts = urlsplit(uri)
        if parts.scheme in ("", "file"):
            folder = Path(unquote(parts.path)) / PIPELINE
            if not folder.is_dir():
                raise NotAvailable(f"{version.name}: its files are gone from {folder}",
                                   hint="put the folder back, or use a version whose files are here")  # fmt: skip
            return folder, False
        target = self.workspace.shared / "models" / digest
        if not target.is_dir():
            with held(target.with_name(f"{digest}.lock")):
                if not target.is_dir():
                    partial = target.with_name(f"{digest}.partial")
                    shutil.rmtree(partial, ignore_errors=True)
                    partial.mkdir(parents=True)
                    source = f"models:/{version.model}/{version.number}"
                    (self.tracking.download(source, partial) / PIPELINE).rename(target)
                    shutil.rmtree(partial, ignore_errors=True)
                    sync_folder(target.parent)
        return target, True

    # writing; callers hold `lock(model)`

    @contextlib.contextmanager
    def lock(self, model: str) -> Iterator[Path]:
        """Exclusive right to change the model's versions and aliases on this machine; yields its folder here."""
        folder = self.folder / model
        folder.mkdir(parents=True, exist_ok=True)
        with held(folder / "lock"):
            yield folder

    def set_alias(self, version: Version, alias: str) -> None:
        self.tracking.client.set_registered_model_alias(version.model, alias, str(version.number))

    def set_tags(self, version: Version, **tags: str) -> None:
        """Sets the tags `fewstep.<name>`."""
        for key, value in tags.items():
            self.tracking.client.set_model_version_tag(version.model, str(version.number), f"fewstep.{key}", value)


def _version(entry: ModelVersion) -> Version:
    return Version(entry.name, int(entry.version), dict(entry.tags), tuple(sorted(entry.aliases)), entry.run_id or None,
                   entry.source)
