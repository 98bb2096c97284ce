"""`fewstep ui`: Prefect's and MLflow's web pages on this machine's data, for as long as the command runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from fewstep.util.errors import FewstepError
from flows.orchestration.child_server import ChildServer, answers, is_free, start_server, with_token
from flows.orchestration.own_server_environment import reach_loopback
from flows.orchestration.prefect_api import require, serving, start_prefect
from flows.runs.signals import handled
from tasks.storage.workspace import Workspace
from tasks.tracking.redaction import redact

PREFECT_PORT, MLFLOW_PORT = 4200, 5000


def show(workspace: Workspace, profile: str, experiment: str, *, host: str = "127.0.0.1",
         say: Callable[[dict[str, str]], None] = print) -> None:
    """Starts the pages that do not run yet and waits for a signal to end; what was started here ends with this.

    Args:
        workspace: the checkout.
        profile: of its settings.
        experiment: whose runs and models get addresses of their own, as MLflow opens elsewhere.
        host: address to listen on.
        say: is given the addresses by name when the pages answer.

    Raises:
        NotAvailable: a server given by URL does not answer.
        FewstepError: a page does not come up, or stops.
    """
    children: dict[str, ChildServer] = {}
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


def _prefect(workspace: Workspace, profile: str, host: str, addresses: dict[str, str],
             children: dict[str, ChildServer]) -> None:
    given, serve = os.environ.get("PREFECT_API_URL"), serving(workspace)
    reach_loopback(os.environ)
    if profile == "server" or given:
        require(given or "")
        addresses["Prefect"] = redact(given).removesuffix("/").removesuffix("/api")
    elif serve and answers(serve.url + "/api/health"):
        addresses["Prefect"] = with_token(serve.url, serve.token)
    else:
        port = PREFECT_PORT if is_free(host, PREFECT_PORT) else 0
        child = children["Prefect"] = start_prefect(workspace, workspace.shared / "logs" / "ui-prefect.log", pages=True,
                                                    host=host, port=port)
        addresses["Prefect"] = with_token(child.url, child.token)


def _mlflow(workspace: Workspace, experiment: str, host: str, addresses: dict[str, str],
            children: dict[str, ChildServer]) -> None:
    from tasks.tracking.mlflow_client import Tracking  # MLflow takes seconds to load

    # the first question makes or migrates a local database under our lock
    known = Tracking.of(workspace).client.get_experiment_by_name(experiment)
    uri = str(workspace.mlflow_uri)
    if urlsplit(uri).scheme in ("http", "https"):
        def page(path: str) -> str:
            return redact(uri).removesuffix("/") + path
    else:
        child = children["MLflow"] = start_mlflow(workspace, workspace.shared / "logs" / "ui-mlflow.log", host=host,
                                                  port=MLFLOW_PORT if is_free(host, MLFLOW_PORT) else 0)

        def page(path: str) -> str:
            return with_token(child.url + path, child.token)
    addresses["MLflow"] = page("")
    if known is not None:
        addresses["runs"] = page(f"/#/experiments/{known.experiment_id}/runs")
        addresses["models"] = page("/#/models")


def start_mlflow(workspace: Workspace, log: Path, *, host: str = "127.0.0.1", port: int = 0) -> ChildServer:
    """Starts MLflow's server on the workspace's database, behind the page guard, and returns at once.

    Raises FewstepError when the port is taken.
    """
    environment = dict(os.environ, FEWSTEP_MLFLOW_STORE=str(workspace.mlflow_uri),
                       FEWSTEP_MLFLOW_ARTIFACTS=(workspace.shared / "mlartifacts").resolve().as_uri())
    return start_server("mlflow", environment, log, host=host, port=port)


def _wait(children: dict[str, ChildServer]) -> None:
    """Until SIGINT, SIGTERM or SIGHUP. Raises FewstepError when a server stops."""
    stop = threading.Event()
    with handled(lambda number: stop.set()):
        while not stop.wait(0.5):
            for name, child in children.items():
                if child.process.poll() is not None:
                    raise FewstepError(f"{name}'s server has stopped", hint=f"its output is in {child.log}")
