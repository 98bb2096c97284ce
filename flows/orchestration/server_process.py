"""A server application in a child process: `python -m flows.orchestration.server_process prefect|mlflow FD`.

FD is a listening socket that it inherits. In the environment: FEWSTEP_PARENT, the pid that it dies with;
FEWSTEP_SERVER_TOKEN, what its callers must know; FEWSTEP_SERVER_HOST, the address it listens on. MLflow's needs
FEWSTEP_MLFLOW_STORE, the address of its database, and FEWSTEP_MLFLOW_ARTIFACTS, where new experiments keep files.

Several runs of a checkout have a Prefect server each, on one SQLite file. Prefect lets all of them bring its tables up
to date at once, and all but one fail; here one after the other does, under a lock.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

import tasks.tracking.process_env  # noqa: F401
from flows.orchestration.page_guard import PageGuard, own_names
from tasks.storage.locks import die_with_parent, held
from tasks.tracking.redacted_logs import redact_logs_and_tracebacks

MIGRATE = "PREFECT_SERVER_DATABASE_MIGRATE_ON_START"


def main() -> None:
    """Serves until SIGTERM or the parent's death."""
    redact_logs_and_tracebacks()
    parent = os.environ.pop("FEWSTEP_PARENT", None)
    die_with_parent(int(parent) if parent else None)
    application = {"prefect": _prefect, "mlflow": _mlflow}[sys.argv[1]]
    listening = socket.socket(fileno=int(sys.argv[2]))
    token, names = os.environ["FEWSTEP_SERVER_TOKEN"], own_names(os.environ["FEWSTEP_SERVER_HOST"])
    app = application({f"http://{name}:{listening.getsockname()[1]}" for name in names})
    config = uvicorn.Config(PageGuard(app, token, names), log_level="warning", lifespan="on",
                            timeout_graceful_shutdown=3)
    uvicorn.Server(config).run(sockets=[listening])


def _prefect(origins: set[str]) -> ASGIApp:
    """Prefect's application, which reads its environment when it is imported; `origins` are those of its own pages."""
    os.environ["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"] = ",".join(sorted(origins))
    os.environ["PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED"] = "true"
    migrate(Path(os.environ["PREFECT_HOME"]))
    from prefect.server.api.server import create_app

    return create_app()


def migrate(home: Path) -> None:
    """Brings the tables of Prefect's database up to date, while no other process does; then Prefect need not."""
    os.environ[MIGRATE] = "false"
    with held(home / "migration.lock"):
        from prefect.server.database import provide_database_interface  # Prefect reads its environment on import

        asyncio.run(provide_database_interface().create_db())


def _mlflow(origins: set[str]) -> ASGIApp:
    from tasks.tracking.mlflow_server import server_application  # MLflow takes seconds to load

    return server_application(os.environ["FEWSTEP_MLFLOW_STORE"], os.environ["FEWSTEP_MLFLOW_ARTIFACTS"])


if __name__ == "__main__":
    main()
