"""The connection to an MLflow server or database: MLflow's own client, with this project's errors.

All of the project reaches MLflow through `Tracking`. It adds what MLflow (3.17) lacks:

* One process at a time opens a database. When ten processes open an empty SQLite database at once, MLflow alone lets
  nine of them fail. An older database is copied before it is upgraded.
* Database errors are retried, as often as HTTP requests are (MLFLOW_HTTP_REQUEST_MAX_RETRIES). MLflow does not retry a
  query; a database that it cannot open it tries ten times in 100 seconds, so it is reached here first.
* A failure is a NotAvailable, a Missing or another FewstepError that says what to do, without secrets.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import tasks.tracking.process_env  # noqa: F401  (switches telemetry off before mlflow is imported)
from fewstep.util.errors import FewstepError, NotAvailable
from tasks.storage.locks import held
from tasks.storage.workspace import Workspace
from tasks.tracking.redaction import redact
from tasks.tracking.store_uri import is_server, sqlite_file

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("PGCONNECT_TIMEOUT", "30")    # libpq alone waits for ever

import mlflow
import requests
import sqlalchemy
import tenacity
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from mlflow import MlflowClient
from mlflow.db import upgrade
from mlflow.entities import LoggedModelStatus, Metric, Param, Run, RunTag, ViewType
from mlflow.entities.model_registry import ModelVersion
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES
from mlflow.exceptions import MlflowException

__all__ = ["LoggedModelStatus", "Metric", "Missing", "MlflowClient", "ModelVersion", "Param", "Run", "RunTag",
           "Tracking", "ViewType", "all_pages", "if_present", "safe"]  # fmt: skip

for _name in ("mlflow", "alembic"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

LOCK = "mlflow.lock"
MISSING = "RESOURCE_DOES_NOT_EXIST"
REFUSED_BY_DATABASE = "BAD_REQUEST"
"""MLflow's code where the database was reached and refused: two writers inserted the same row at once."""
REFUSALS = {
    MISSING, REFUSED_BY_DATABASE, "RESOURCE_ALREADY_EXISTS", "INVALID_PARAMETER_VALUE", "INVALID_STATE",
    "PERMISSION_DENIED", "UNAUTHENTICATED", "ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED",
}  # fmt: skip
"""Codes of answers; every other code (TEMPORARILY_UNAVAILABLE, INTERNAL_ERROR, …) says that there was no answer."""
UNREACHABLE = (sqlalchemy.exc.SQLAlchemyError, requests.RequestException, ConnectionError, TimeoutError)
"""What is raised where MLflow does not translate: the store does not answer."""

_LONGEST = 1500     # characters of a library's text in a message

P = ParamSpec("P")
T = TypeVar("T")


class Missing(FewstepError):
    """MLflow has no run, model, version or experiment of that name."""


class Tracking:
    """A connection to one MLflow server or database.

    Attributes:
        uri: a database (`sqlite:///…`, `postgresql…`) or an http(s) address.
        artifacts: folder or address under which experiments made here keep their files; None leaves it to the server.
        locks: folder for lock files.
        client: MLflow's client; its methods raise Missing for what does not exist, NotAvailable for a store that does
            not answer through all attempts, and FewstepError for what MLflow refuses.
    """

    def __init__(self, uri: str, artifacts: str | None, locks: Path):
        self.uri, self.artifacts, self.locks = uri, artifacts, Path(locks)
        self.locks.mkdir(parents=True, exist_ok=True)
        self.client = cast(MlflowClient, _Translated(self))
        self._client: MlflowClient | None = None

    @classmethod
    def of(cls, workspace: Workspace) -> Tracking:
        """The connection that the workspace's settings name."""
        uri, shared = workspace.mlflow_uri, workspace.shared
        artifacts = None if is_server(uri) else (shared / "mlartifacts").resolve().as_uri()
        return cls(uri, artifacts, shared / "locks")

    def write_once(self, run_id: str, name: str, value: str) -> bool:
        """Sets a run's parameter, which MLflow's database never changes: False when it holds another value.

        Of many writers at once exactly one gets True.
        """
        try:
            self.client.log_param(run_id, name, value)
        except FewstepError:
            stored = self.client.get_run(run_id).data.params.get(name)
            if stored is None:
                raise
            return stored == value
        return True

    def download(self, uri: str, folder: Path) -> Path:
        """Copies what MLflow keeps under `uri` (`models:/NAME/1`, …) into `folder`; returns where it lies."""

        def fetch() -> str:
            self.opened()  # MLflow resolves `models:/…` by the store that was opened last
            return mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder))

        return Path(self.attempt(f"the download of {uri}", fetch))

    def experiment(self, name: str) -> str:
        """Id of the experiment `name`, made where it is missing (also when ten processes make it at once).

        Raises FewstepError for an experiment that was deleted.
        """
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            with held(self.locks / LOCK):
                experiment = self.client.get_experiment_by_name(name)
                if experiment is None:
                    location = f"{self.artifacts}/{safe(name)}" if self.artifacts else None
                    return self.client.create_experiment(name, artifact_location=location)
        if experiment.lifecycle_stage == "deleted":
            store = f"MLFLOW_TRACKING_URI={shlex.quote(redact(self.uri))}"
            raise FewstepError(f"MLflow's experiment {name!r} was deleted; restore it with `{store} mlflow experiments "
                               f"restore -x {experiment.experiment_id}` or use another name in params.yaml")
        return experiment.experiment_id

    def opened(self) -> MlflowClient:
        """MLflow's client as it is, without translation of errors. The first call makes or upgrades a database."""
        if mlflow.get_tracking_uri() != self.uri:  # what MLflow resolves by itself belongs to the store in use
            mlflow.set_tracking_uri(self.uri)
            mlflow.set_registry_uri(self.uri)
        if self._client is None:
            with nullcontext() if is_server(self.uri) else held(self.locks / LOCK):
                self._client = self._open()
        return self._client

    def _open(self) -> MlflowClient:
        if not is_server(self.uri):
            _upgrade(self.uri)
        client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        if not is_server(self.uri):
            client.search_experiments(max_results=1)  # the two stores make their tables when they are first used
            client.search_registered_models(max_results=1)
        return client

    def attempt(self, what: str, action: Callable[[], T]) -> T:
        """Does `action`, repeated where that may help; raises as `client` does. `what` is named in messages."""
        attempts = 1 + MLFLOW_HTTP_REQUEST_MAX_RETRIES.get()
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(attempts), wait=tenacity.wait_random_exponential(multiplier=0.5, max=8),
            retry=tenacity.retry_if_exception(self._worth_repeating), reraise=True,
        )  # fmt: skip
        try:
            return retrying(action)
        except Exception as error:  # not MLflow's alone: artifact stores raise exceptions of their own libraries
            text = _said(error)
            if isinstance(error, MlflowException) and error.error_code == MISSING:
                raise Missing(f"MLflow refused {what}: {text}") from error
            if _unreachable(error):
                if self._is_up():
                    problem = f"is up and failed {what}"
                    hint = "finished work is kept; MLflow's log says what failed behind it, such as its artifact store"
                else:
                    problem = "did not answer"
                    hint = "finished work is kept; start the server or mend its address, then `fewstep resume`"
                raise NotAvailable(f"MLflow at {redact(self.uri)} {problem} after {attempts} attempts: {text}",
                                   hint=hint) from error
            raise FewstepError(f"MLflow refused {what}: {text}") from error

    def _is_up(self) -> bool:
        """Whether a server is there, whatever it fails at: what it cannot pass on may end without an answer."""
        try:
            return is_server(self.uri) and requests.get(f"{self.uri.rstrip('/')}/health", timeout=5).ok
        except requests.RequestException:
            return False

    def _worth_repeating(self, error: BaseException) -> bool:
        if isinstance(error, MlflowException) and error.error_code == REFUSED_BY_DATABASE:
            return True  # asked again, MLflow sees the other writer's row and changes it
        return not is_server(self.uri) and _unreachable(error)


class _Translated:
    """MlflowClient whose methods go through `Tracking.attempt`."""

    def __init__(self, tracking: Tracking):
        self._tracking = tracking

    def __getattr__(self, name: str) -> Callable[..., Any]:
        @functools.wraps(getattr(MlflowClient, name))
        def method(*args: Any, **kwargs: Any) -> Any:
            return self._tracking.attempt(name, lambda: getattr(self._tracking.opened(), name)(*args, **kwargs))

        return method


def if_present(ask: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """What `ask`, a method of `Tracking.client`, returns; None where MLflow has no such thing."""
    try:
        return ask(*args, **kwargs)
    except Missing:
        return None


def all_pages(search: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
    """All items of a paged search, such as `all_pages(tracking.client.search_runs, experiments, condition)`."""
    items, token = [], None
    while True:
        page = search(*args, page_token=token, **kwargs)
        items += page
        token = page.token
        if not token:
            return items


def _unreachable(error: BaseException) -> bool:
    if isinstance(error, MlflowException):
        return error.error_code not in REFUSALS
    return isinstance(error, UNREACHABLE)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _said(error: BaseException) -> str:
    """The error's text in one line, redacted, and its first cause where the text does not have it. A long text loses
    its middle: what failed stands at its begin, why at its end."""
    text = " ".join(str(error).split()) or type(error).__name__
    *_, first = _chain(error)
    cause = " ".join(str(first).split()) or type(first).__name__
    text = redact(text if cause in text else f"{text} (because of {type(first).__name__}: {cause})")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST // 3]} … {text[-2 * _LONGEST // 3:]}"


def _upgrade(uri: str) -> None:
    """Reaches the database, whose driver's error passes on where that fails, and brings older tables up to date; a
    SQLite file is copied beside itself first, and made where there is none."""
    path = sqlite_file(uri)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    engine = sqlalchemy.create_engine(uri)
    with engine.connect() as connection:
        present = MigrationContext.configure(connection).get_current_revision()
    engine.dispose()
    newest = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations")).get_current_head()
    if present in (None, newest):  # None: an empty database, which MLflow fills at its first use
        return
    if path is not None:
        shutil.copy2(path, path.with_name(f"{path.name}.before-{newest}"))
    upgrade.callback(uri)  # `mlflow db upgrade`


def safe(name: str) -> str:
    """`name` as it may stand in a path."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)
