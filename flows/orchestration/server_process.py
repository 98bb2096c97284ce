"""Prefect's server application in a child process: `python -m flows.orchestration.server_process FD`, FD a listening
socket that it inherits, FEWSTEP_PARENT the pid that it dies with."""

from __future__ import annotations

import os
import socket
import sys

import uvicorn

import tasks.tracking.process_env  # noqa: F401
from tasks.storage.locks import die_with_parent


def main() -> None:
    """Serves until SIGTERM or the parent's death."""
    parent = os.environ.pop("FEWSTEP_PARENT", None)
    die_with_parent(int(parent) if parent else None)
    listening = socket.socket(fileno=int(sys.argv[1]))
    config = uvicorn.Config("prefect.server.api.server:create_app", factory=True, log_level="warning", lifespan="on",
                            timeout_graceful_shutdown=3)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
