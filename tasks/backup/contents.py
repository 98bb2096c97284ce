"""What a backup holds, as its backup.json says, and where that lies in a project."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fewstep.util.config import Strict
from fewstep.util.errors import SettingsError
from tasks.storage.code_state import CodeOrigin
from tasks.storage.workspace import Workspace, sqlite_address
from tasks.tracking.redaction import redact
from tasks.tracking.store_uri import is_server, missing_database

NAME = "backup.json"
FILES = "files"             # folder of the backup: what lay in .fewstep
OBJECTS = "objects"         # and what lay in DVC's remote, as it lay there
SHARED = "shared"           # and, of the store that hosts share, the record
RECORDS = "records/"
REPOSITORY = "repository.bundle"
CODE_REPOSITORY = "code.bundle"     # of code that lies apart
FOLDERS = ("registry", "registries", "runs", "published", "schedules", "mlartifacts")
"""Of .fewstep: the record, other registries' records, runs, what was published, schedules, MLflow's files."""
OWN_REFERENCES = "refs/fewstep/*"
REFERENCES = ("refs/tags/*", OWN_REFERENCES)
"""Of git: the snapshot of every version, the commits that made outputs."""
_MLFLOW, _PREFECT = "MLFLOW_BACKEND_STORE_URI", ("PREFECT_SERVER_DATABASE_CONNECTION_URL",
                                                  "PREFECT_API_DATABASE_CONNECTION_URL")  # fmt: skip


def places(source: Path, target: Path) -> Iterator[tuple[Path, Path]]:
    """Every file below `source` and its place below `target`, whose folder is made."""
    for parent, _, names in os.walk(source):
        for name in names:
            path = Path(parent, name)
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            yield path, place


class BackupFile(Strict):
    """A file of the backup: its path there, size and SHA-256."""

    path: str
    bytes: int
    sha256: str


class Backup(Strict):
    """What is in a backup.

    Attributes:
        created: UTC.
        commit: of the workspace.
        code: of code that lies apart.
        databases: their names; each is a file of that name.
        artifacts: address under which MLflow kept its files, where these are in the backup.
        remote: DVC's default remote, without secrets; None without one.
        needed: DVC's names of all objects that versions, branches, checkouts and runs need.
        absent: of these, those that neither the backup nor the remote has.
        files: everything else here.
    """

    format: Literal[1] = 1
    created: str
    commit: str | None
    code: CodeOrigin | None = None
    databases: tuple[str, ...]
    artifacts: str | None
    remote: str | None
    needed: tuple[str, ...]
    absent: tuple[str, ...]
    files: tuple[BackupFile, ...]


@dataclass(frozen=True)
class Databases:
    """SQLAlchemy's addresses; None for a database that there is not."""

    mlflow: str | None
    prefect: str | None

    def named(self) -> dict[str, str]:
        return {name: address for name, address in vars(self).items() if address is not None}


def databases(workspace: Workspace, *, existing: bool = True) -> Databases:
    """Where MLflow and Prefect keep what they know; a server's database is named by the server's own variable.

    `existing`: a SQLite file that is not there counts as none. Raises SettingsError for a server whose database is not
    named.
    """
    mlflow = workspace.mlflow_uri
    if is_server(mlflow):
        mlflow = _given("MLflow", mlflow, (_MLFLOW,))
    prefect = next(filter(None, map(os.environ.get, _PREFECT)), None)
    if prefect is None and (url := os.environ.get("PREFECT_API_URL")):
        prefect = _given("Prefect", url, _PREFECT)
    prefect = prefect or sqlite_address(workspace.prefect_home / "prefect.db", "aiosqlite")
    if existing:
        return Databases(*(None if missing_database(address) else address for address in (mlflow, prefect)))
    return Databases(mlflow, prefect)


def artifacts(workspace: Workspace) -> str | None:
    """Address below which MLflow's files lie in this project; None where a server has them."""
    return None if is_server(workspace.mlflow_uri) else (workspace.shared / "mlartifacts").resolve().as_uri()


def _given(server: str, url: str, variables: tuple[str, ...]) -> str:
    for variable in variables:
        if address := os.environ.get(variable):
            return address
    raise SettingsError(f"{server} at {redact(url)} is a server: what its database is called is not known here",
                        hint=f"set {variables[0]}, as the server has it, where the database can be reached")


def inside(folder: Path, path: str) -> Path:
    """The file of this path in a backup. Raises SettingsError for one that leads outside."""
    found = (folder / path).resolve()
    if not found.is_relative_to(folder.resolve()):
        raise SettingsError(f"{folder / NAME}: {path} lies outside of the backup")
    return found
