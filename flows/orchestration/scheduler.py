"""`fewstep serve`: Prefect's server with its pages, and the runner of scheduled runs, in the foreground.

The server and the runs are children of this process and ask the kernel to die with it.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import Callable
from dataclasses import asdict

from fewstep.util.errors import Busy
from flows.orchestration.child_server import is_free, source_path
from flows.orchestration.prefect_api import Serving, prefect_environment, serving, serving_path, start_prefect
from tasks.storage.workspace import Workspace
from tasks.tracking.run_records import now

PORT = 4200


def serve(workspace: Workspace, *, host: str = "127.0.0.1", port: int | None = None, limit: int = 1,
          say: Callable[[str], None] = print) -> None:
    """Runs until SIGINT or SIGTERM.

    Args:
        workspace: the checkout.
        host: address to listen on.
        port: of the pages; None takes 4200, or a free one if that is taken.
        limit: scheduled runs at the same time.
        say: is told what is going on.

    Raises:
        Busy: this repository is served already.
        FewstepError: the port is taken, or the server stops.
    """
    handle = _lock(workspace)
    try:
        port = port if port is not None else (PORT if is_free(host, PORT) else 0)
        log = workspace.shared / "logs" / "serve.log"
        child = start_prefect(workspace, log, pages=True, host=host, port=port)
        try:
            child.wait("/api/health", "Prefect's server")
            facts = Serving(url=child.url, pid=os.getpid(), started=now())
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(asdict(facts)).encode(), 0)
            os.environ.update(prefect_environment(workspace, f"{child.url}/api"))
            os.environ.update({"FEWSTEP_SERVE_PID": str(os.getpid()), "PYTHONPATH": source_path(dict(os.environ)),
                               "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"})
            say(f"Prefect {child.url}   (its log: {log})")
            from flows.orchestration.schedule_runner import ScheduleRunner  # Prefect reads its environment on import

            asyncio.run(ScheduleRunner(workspace, child, limit, say).run())
        finally:
            child.stop()
    finally:
        os.ftruncate(handle, 0)
        os.close(handle)


def _lock(workspace: Workspace) -> int:
    """Locks the file that says who serves; returns its descriptor. Raises Busy."""
    path = serving_path(workspace)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        other = serving(workspace)
        who = f" (process {other.pid}): {other.url}" if other else ""
        raise Busy(f"`fewstep serve` runs already{who}") from None
    return handle
