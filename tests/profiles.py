"""The profile under which tests run whole projects: `make test PROFILE=server` gives those of the modules marked
`both_profiles` a team's servers in place of files: Prefect and MLflow on PostgreSQL, S3 behind MLflow and DVC.

Servers start when the first project needs them. A project has databases, an MLflow server and a place in the bucket of
its own, as its registry and store would be another project's too; Prefect is one for all.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from itertools import count
from pathlib import Path

import pytest

from tests.mlflow_server import mlflow_server
from tests.postgres import Postgres
from tests.prefect_server import PrefectServer, prefect_server
from tests.s3_server import BUCKET, S3Server

_CHOSEN = os.environ.get("FEWSTEP_TEST_PROFILE", "local")
SERVER = _CHOSEN == "server"
if _CHOSEN not in ("local", "server"):
    raise pytest.UsageError(f"PROFILE={_CHOSEN}: expected local or server")


class Servers:
    """A team's servers, for the tests of one process."""

    def __init__(self):
        self._stack, self._numbers = ExitStack(), count()

    def join(self, root: Path) -> dict[str, str]:
        """Makes the project in `root` one of the profile that is tested, before its first commit.

        Returns the environment of its commands: addresses and credentials; nothing under the profile `local`.
        """
        if not SERVER:
            return {}
        name = f"project{next(self._numbers)}"
        params = root / "params.yaml"
        params.write_text(params.read_text().replace("profile: local", "profile: server"))
        remote = f"['remote \"store\"']\n    url = s3://{BUCKET}/{name}\n[core]\n    remote = store\n"
        (root / ".dvc" / "config").write_text(remote)
        (self._folder / name).mkdir()
        mlflow = mlflow_server(self._folder / name, self._postgres.new(name), f"s3://{BUCKET}/mlflow-{name}",
                               **self._s3.environment)  # fmt: skip
        return {**self._s3.environment, "PREFECT_API_URL": self.prefect.api,
                "MLFLOW_TRACKING_URI": self._stack.enter_context(mlflow)}

    def close(self) -> None:
        self._stack.close()

    @cached_property
    def prefect(self) -> PrefectServer:
        self._postgres.new("prefect")
        url = self._postgres.url("prefect", "postgresql+asyncpg")
        return self._stack.enter_context(prefect_server(
            self._folder / "prefect", PREFECT_SERVER_DATABASE_CONNECTION_URL=url))

    @cached_property
    def _folder(self) -> Path:
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="fewstep-servers-")))

    @cached_property
    def _postgres(self) -> Postgres:
        server = Postgres()
        self._stack.callback(server.close)
        return server

    @cached_property
    def _s3(self) -> S3Server:
        server = S3Server(self._folder / "s3")
        self._stack.callback(server.stop)
        server.start()
        return server


servers = Servers()


@pytest.fixture(scope="session", autouse=True)
def servers_end() -> Iterator[None]:
    """With the tests."""
    yield
    servers.close()


def mlflow_uri(root: Path, environment: dict[str, str]) -> str:
    """Where the project in `root` keeps its MLflow runs."""
    return environment.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / '.fewstep' / 'mlflow.db'}"


def flow_run_states(root: Path) -> list[str]:
    """States of the Prefect runs of the project in `root`, oldest first."""
    if SERVER:
        runs = {path.stem for path in (root / ".fewstep" / "runs").glob("*.json")}
        return [run["state_name"] for run in servers.prefect.flow_runs() if run["name"] in runs]
    with sqlite3.connect(root / ".fewstep" / "prefect" / "prefect.db") as database:
        return [state for (state,) in database.execute("SELECT state_name FROM flow_run ORDER BY created")]


@contextmanager
def remote_away(root: Path) -> Iterator[None]:
    """Nothing that the project in `root` pushed can be had from its remote."""
    if SERVER:
        elsewhere = root / ".dvc" / "config.local"
        elsewhere.write_text(f"['remote \"store\"']\n    url = s3://{BUCKET}/nothing-is-here\n")
        yield
        elsewhere.unlink()
        return
    remote, aside = root / ".fewstep" / "remote", root / ".fewstep" / "remote-away"
    remote.rename(aside)
    yield
    shutil.rmtree(remote, ignore_errors=True)
    aside.rename(remote)
