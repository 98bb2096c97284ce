"""MLflow's server as a team runs it: `mlflow server` on a database, ended with its workers by its id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.s3_server import free_ports


@contextmanager
def mlflow_server(folder: Path, database: str, artifacts: str | None = None, workers: int = 1,
                  **environment: str) -> Iterator[str]:  # fmt: skip
    """The address of a server whose tables are in `database`; it hands out `artifacts` (default: a folder)."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers",
               str(workers), "--backend-store-uri", database, "--artifacts-destination",
               artifacts or (folder / "artifacts").as_uri()]  # fmt: skip
    settings = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **environment}
    url = f"http://127.0.0.1:{port}"
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(command, env=settings, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        while not _answers(url):
            assert process.poll() is None, (folder / "server.log").read_text()[-2000:]
            time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2):
            return True
    except OSError:
        return False
