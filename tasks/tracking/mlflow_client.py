"""The connection to MLflow: its client with our retries, one maker of a database at a time, errors that say what to do.

MLflow reads its switches when it is imported: who needs a name of its own takes it from here.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import tasks.tracking.process_env  # noqa: F401  (switches telemetry off before mlflow is imported)
from fewstep.util.errors import FewstepError, NotAvailable
from tasks.storage.locks import held
from tasks.tracking.redaction import redact

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # our own retries, below, are the ones that count
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

import mlflow
import tenacity
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException

__all__ = ["Metric", "Param", "RunTag", "Tracking", "ViewType", "safe", "unreachable"]

for _name in ("mlflow", "alembic"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

ATTEMPTS = 4
_PERMANENT = {
    "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_PARAMETER_VALUE", "INVALID_STATE", "BAD_REQUEST",
    "PERMISSION_DENIED", "UNAUTHENTICATED", "ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED",
}  # fmt: skip


class Tracking:
    """A connection to one MLflow server or database, with retries and errors that say what to do.

    `uri` is a database (`sqlite:///…`, `postgresql…`) or an http(s) address. `artifacts` is the folder or address under
    which experiments made here keep their files; None leaves it to the server. `locks` is a folder for lock files.
    """

    def __init__(self, uri: str, artifacts: str | None, locks: Path):
        self.uri, self.artifacts, self.locks = uri, artifacts, Path(locks)
        self.locks.mkdir(parents=True, exist_ok=True)
        self._client: mlflow.MlflowClient | None = None

    @classmethod
    def of(cls, workspace) -> "Tracking":
        """The connection that the workspace's settings name."""
        uri = str(workspace.mlflow_uri)
        shared = Path(workspace.shared)
        artifacts = None if urlsplit(uri).scheme in ("http", "https") else (shared / "mlartifacts").resolve().as_uri()
        return cls(uri, artifacts, shared / "locks")

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Calls the client's `method`.

        Raises NotAvailable when the server stays away through all attempts, FewstepError for what it refuses.
        """
        return self.attempt(method, lambda: getattr(self.client, method)(*args, **kwargs))

    def pages(self, method: str, *args: Any, **kwargs: Any) -> list:
        """All items of a paged search."""
        found, token = [], None
        while True:
            page = self.call(method, *args, page_token=token, **kwargs)
            found += page
            token = page.token
            if not token:
                return found

    def find(self, method: str, *args: Any, **kwargs: Any) -> Any | None:
        """Like `call`; None where MLflow says that there is no such thing."""
        try:
            return self.call(method, *args, **kwargs)
        except FewstepError as error:
            if isinstance(error.__cause__, MlflowException) and _missing(error.__cause__):
                return None
            raise

    def write_once(self, run_id: str, name: str, value: str) -> bool:
        """Sets a run's parameter, which its database never changes: False when it holds another value. Of many writers
        at once exactly one gets True."""
        try:
            self.call("log_param", run_id, name, value)
        except FewstepError:
            held = self.call("get_run", run_id).data.params.get(name)
            if held is None:
                raise
            return held == value
        return True

    def download(self, uri: str, folder: Path) -> Path:
        """Copies what MLflow keeps under `uri` (`models:/NAME/1`, …) into `folder`; returns where it lies."""
        self.attempt("the first contact", lambda: self.client)
        fetch = mlflow.artifacts.download_artifacts
        return Path(self.attempt(f"the download of {uri}", lambda: fetch(artifact_uri=uri, dst_path=str(folder))))

    def experiment(self, name: str) -> str:
        """Id of the experiment `name`, made where it is missing (also when ten processes make it at once)."""
        found = self.call("get_experiment_by_name", name)
        if found is None:
            location = f"{self.artifacts}/{safe(name)}" if self.artifacts else None
            with held(self.locks / "mlflow.lock"):
                found = self.call("get_experiment_by_name", name)
                if found is None:
                    return self.call("create_experiment", name, artifact_location=location)
        if found.lifecycle_stage == "deleted":
            raise FewstepError(f"MLflow's experiment {name!r} was deleted; restore it with `mlflow experiments restore "
                               f"-x {found.experiment_id}` or use another name in params.yaml")  # fmt: skip
        return found.experiment_id

    @property
    def client(self) -> mlflow.MlflowClient:
        """MLflow's own client. One process at a time creates or migrates a database: making a client starts that."""
        if mlflow.get_tracking_uri() != self.uri:  # what MLflow resolves by itself belongs to the store in use
            mlflow.set_tracking_uri(self.uri)
            mlflow.set_registry_uri(self.uri)
        if self._client is None:
            if urlsplit(self.uri).scheme in ("http", "https"):
                self._client = mlflow.MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            else:
                with held(self.locks / "mlflow.lock"):
                    _upgrade(self.uri)
                    self._client = mlflow.MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
                    # the stores add their default rows when first used: under the lock too
                    self._client.search_experiments(max_results=1)
                    self._client.search_registered_models(max_results=1)
        return self._client

    def attempt(self, what: str, action: Callable[[], Any]) -> Any:
        """Does `action`, again where MLflow stays away; raises as `call` does, naming `what`."""
        attempts = int(os.environ.get("FEWSTEP_MLFLOW_ATTEMPTS", ATTEMPTS))
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(attempts), wait=tenacity.wait_random_exponential(multiplier=0.5, max=8),
            retry=tenacity.retry_if_exception(lambda error: _transient(error) or _raced(error)), reraise=True,
        )  # fmt: skip
        try:
            return retrying(action)
        except Exception as error:
            text = redact(str(error)).strip().splitlines()
            text = text[0][:300] if text else type(error).__name__
            if _transient(error):
                raise unreachable(self.uri, attempts, text) from error
            raise FewstepError(f"MLflow refused {what}: {text}") from error


def unreachable(uri: str, attempts: int, text: str) -> NotAvailable:
    error = NotAvailable(f"MLflow at {redact(uri)} did not answer after {attempts} attempts: {text}")
    error.hint = "finished work is kept; start the server or mend its address, then `fewstep resume`"
    return error


def _missing(error: MlflowException) -> bool:
    text = str(error)
    return error.error_code == "RESOURCE_DOES_NOT_EXIST" or ("alias" in text and "not found" in text)


def _transient(error: BaseException) -> bool:
    if isinstance(error, MlflowException):
        return error.error_code not in _PERMANENT
    network = (type(error).__module__ or "").startswith(("sqlalchemy", "requests", "urllib3"))
    return network or isinstance(error, (ConnectionError, TimeoutError))


def _raced(error: BaseException) -> bool:
    """Two writers added the same row (a tag) at once; asked again, MLflow finds the row and changes it."""
    return isinstance(error, MlflowException) and "IntegrityError" in str(error)


def _upgrade(uri: str) -> None:
    """Creates or migrates the tables; an older SQLite database is copied beside itself first."""
    from mlflow.store.db import utils

    engine = utils.create_sqlalchemy_engine_with_retry(uri)
    try:
        utils._safe_initialize_tables(engine)
        found, wanted = utils._get_schema_version(engine), utils._get_latest_schema_revision()
        if found != wanted:
            path = Path(engine.url.database or "") if engine.url.get_backend_name() == "sqlite" else None
            if path is not None and path.is_file():
                shutil.copy2(path, path.with_name(f"{path.name}.before-{wanted}"))
            utils._upgrade_db(engine)
    finally:
        engine.dispose()


def safe(name: str) -> str:
    """`name` as it may stand in a path."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)
