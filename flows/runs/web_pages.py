"""`fewstep ui`: Prefect's and MLflow's web pages on this machine's data, for as long as the command runs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

from fewstep.util.errors import FewstepError
from flows.orchestration.prefect_api import Child, answers, bind, is_free, require, serving, spawn, start_prefect
from tasks.storage.workspace import Workspace
from tasks.tracking.redaction import redact

PREFECT_PORT, MLFLOW_PORT = 4200, 5000


def show(workspace: Workspace, profile: str, experiment: str, *, host: str = "127.0.0.1",
         say: Callable[[dict[str, str]], None] = print) -> None:
    """Starts what is not running yet, hands the addresses to `say`, and waits for SIGINT or SIGTERM; what it started
    ends with it. The runs of `experiment` and the models have addresses of their own: MLflow opens elsewhere.
    Raises NotAvailable or FewstepError when a page does not come up or stops."""
    children: dict[str, Child] = {}
    addresses: dict[str, str] = {}
    try:
        _prefect(workspace, profile, host, addresses, children)
        _mlflow(workspace, experiment, host, addresses, children)
        if "Prefect" in children:
            children["Prefect"].wait("/api/health", "Prefect's server")
        if "MLflow" in children:
            children["MLflow"].wait("/health", "MLflow's server")
        say(addresses)
        if children:
            _wait(children)
    finally:
        for child in children.values():
            child.stop()


def _prefect(workspace: Workspace, profile: str, host: str, addresses: dict, children: dict) -> None:
    given, found = os.environ.get("PREFECT_API_URL"), serving(workspace)
    if profile == "server" or given:
        require(given or "")
        addresses["Prefect"] = redact(given).removesuffix("/").removesuffix("/api")
    elif found and answers(found["url"] + "/api/health"):
        addresses["Prefect"] = found["url"]
    else:
        port = PREFECT_PORT if is_free(host, PREFECT_PORT) else 0
        child = children["Prefect"] = start_prefect(workspace, workspace.shared / "logs" / "ui-prefect.log", pages=True,
                                                    host=host, port=port)
        addresses["Prefect"] = child.url


def _mlflow(workspace: Workspace, experiment: str, host: str, addresses: dict, children: dict) -> None:
    from tasks.tracking.mlflow_client import Tracking

    # the first question makes or migrates a database of our own under our lock
    found = Tracking.of(workspace).client.get_experiment_by_name(experiment)
    uri = str(workspace.mlflow_uri)
    if urlsplit(uri).scheme in ("http", "https"):
        addresses["MLflow"] = redact(uri).removesuffix("/")
    else:
        port = MLFLOW_PORT if is_free(host, MLFLOW_PORT) else _free_port(host)
        addresses["MLflow"] = url = f"http://{host}:{port}"
        log = workspace.shared / "logs" / "ui-mlflow.log"
        environment = dict(os.environ, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
        artifacts = (workspace.shared / "mlartifacts").resolve().as_uri()
        command = ["-m", "mlflow", "server", "--backend-store-uri", uri, "--default-artifact-root", artifacts,
                   "--host", host, "--port", str(port), "--workers", "1"]
        children["MLflow"] = Child(_supervised(command, environment, log), url, log)
    if found is not None:
        addresses["runs"] = f"{addresses['MLflow']}/#/experiments/{found.experiment_id}/runs"
        addresses["models"] = f"{addresses['MLflow']}/#/models"


def _supervised(command: list[str], environment: dict[str, str], log):
    import sys

    return spawn(["-m", "flows.runs.child_supervisor", sys.executable, *command], environment, log)


def _free_port(host: str) -> int:
    with bind(host, 0) as listening:
        return listening.getsockname()[1]


def _wait(children: dict[str, Child]) -> None:
    stop = threading.Event()
    former = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not stop.wait(0.5):
            for name, child in children.items():
                if child.process.poll() is not None:
                    raise FewstepError(f"{name}'s server has stopped", hint=f"its output is in {child.log}")
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
