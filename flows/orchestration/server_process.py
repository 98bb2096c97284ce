"""Prefect's server application in a child process: `python -m flows.orchestration.server_process FD`, FD a listening
socket that it inherits, FEWSTEP_PARENT the pid that it dies with.

Several runs of a checkout have a server each, on one SQLite file. Prefect lets all of them bring its tables up to date
at once, and all but one fail; here one after the other does, under a lock.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import uvicorn

import tasks.tracking.process_env  # noqa: F401
from tasks.storage.locks import die_with_parent, held
from tasks.tracking.redacted_logs import redact_logs_and_tracebacks

MIGRATE = "PREFECT_SERVER_DATABASE_MIGRATE_ON_START"


def main() -> None:
    """Serves until SIGTERM or the parent's death."""
    redact_logs_and_tracebacks()
    parent = os.environ.pop("FEWSTEP_PARENT", None)
    die_with_parent(int(parent) if parent else None)
    listening = socket.socket(fileno=int(sys.argv[1]))
    migrate(Path(os.environ["PREFECT_HOME"]))
    config = uvicorn.Config("prefect.server.api.server:create_app", factory=True, log_level="warning", lifespan="on",
                            timeout_graceful_shutdown=3)
    uvicorn.Server(config).run(sockets=[listening])


def migrate(home: Path) -> None:
    """Brings the tables of Prefect's database up to date, while no other process does; then Prefect need not."""
    os.environ[MIGRATE] = "false"
    with held(home / "migration.lock"):
        from prefect.server.database import provide_database_interface  # Prefect reads its environment on import

        asyncio.run(provide_database_interface().create_db())


if __name__ == "__main__":
    main()
