"""`fewstep serve`: Prefect's server with its pages, and the runner of scheduled runs, in the foreground.

The server and the runs are children of this process and ask the kernel to die with it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import asdict

from fewstep.util.errors import Busy
from flows.orchestration.child_server import is_free, source_path, with_token
from flows.orchestration.own_server_environment import reach_loopback
from flows.orchestration.prefect_api import Serving, adopt, prefect_environment, serving_path, start_prefect
from flows.orchestration.served_root import SERVED_ROOT
from tasks.storage.locks import held
from tasks.storage.workspace import Workspace
from tasks.tracking.run_record import now

PORT = 4200


def serve(workspace: Workspace, *, host: str = "127.0.0.1", port: int | None = None, limit: int = 1,
          say: Callable[[str], None] = print) -> None:
    """Runs until SIGINT, SIGTERM or SIGHUP.

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
    def busy(holder: dict) -> Busy:
        who = f" (process {holder['pid']}): {holder['url']}" if holder else ""
        return Busy(f"`fewstep serve` runs already{who}")

    with held(serving_path(workspace), busy, private=True) as lock:
        port = port if port is not None else (PORT if is_free(host, PORT) else 0)
        log = workspace.shared / "logs" / "serve.log"
        reach_loopback(os.environ)
        child = start_prefect(workspace, log, pages=True, host=host, port=port)
        try:
            child.wait("/api/health", "Prefect's server")
            lock.say(asdict(Serving(url=child.url, token=child.token, pid=os.getpid(), started=now())))
            say(f"Prefect {with_token(child.url, child.token)}   (its log: {log})")
            adopt(prefect_environment(workspace, f"{child.url}/api", child.token))
            os.environ.update({"FEWSTEP_SERVE_PID": str(os.getpid()), "PYTHONPATH": source_path(dict(os.environ)),
                               SERVED_ROOT: str(workspace.root), "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"})
            from flows.scheduling.schedule_runner import ScheduleRunner  # Prefect reads its environment on import

            asyncio.run(ScheduleRunner(workspace, child, limit, say).run())
        finally:
            child.stop()
