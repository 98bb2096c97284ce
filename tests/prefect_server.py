"""Prefect's server as a team runs it: `prefect server start` on a database of its own, ended with its children."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.s3_server import free_ports


class PrefectServer:
    """A server that answers.

    Attributes:
        api: address of its API.
    """

    def __init__(self, api: str):
        self.api = api

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """What the API answers, to a POST where there is a body; asked again while SQLite has another writer (503)."""
        request = urllib.request.Request(f"{self.api}/{path}", None if body is None else json.dumps(body).encode(),
                                         {"Content-Type": "application/json"}, method=method)  # fmt: skip
        while True:
            try:
                with urllib.request.urlopen(request, timeout=120) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    raise
                time.sleep(0.2)

    def deployments(self) -> dict[str, dict]:
        """All deployments by name."""
        return {item["name"]: item for item in self.ask("deployments/filter", {})}

    def flow_runs(self, **wanted: str) -> list[dict]:
        """Flow runs with these fields, oldest first."""
        found = self.ask("flow_runs/filter", {"sort": "EXPECTED_START_TIME_ASC"})
        return [run for run in found if all(run[name] == value for name, value in wanted.items())]


@contextmanager
def prefect_server(folder: Path, **environment: str) -> Iterator[PrefectServer]:
    """A server with its database in `folder`; `environment`: further variables for it."""
    folder.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    settings = {**own, "PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", **environment}
    server = PrefectServer(f"http://127.0.0.1:{port}/api")
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(command, env=settings, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        while not _answers(server):
            assert process.poll() is None, (folder / "server.log").read_text()[-2000:]
            time.sleep(0.2)
        yield server
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def _answers(server: PrefectServer) -> bool:
    try:
        return server.ask("health")
    except OSError:
        return False
