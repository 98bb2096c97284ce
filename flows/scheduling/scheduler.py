"""`fewstep serve`: the runner of scheduled runs and waiting decisions, in the foreground, and a Prefect server for it.

The runs, and the server where none is given, are children of this process and ask the kernel to die with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict

from fewstep.util.errors import Busy, FewstepError, SettingsError
from flows.orchestration.child_server import is_free, with_token
from flows.orchestration.own_server_environment import reach_loopback
from flows.orchestration.prefect_api import (
    Serving,
    adopt,
    prefect_environment,
    require,
    serving_path,
    start_prefect,
)
from flows.orchestration.served_root import SERVED_ROOT
from flows.scheduling.served_to import ServedTo
from flows.telemetry import telemetry
from tasks.storage.locks import held
from tasks.storage.sharing.host import owner
from tasks.storage.workspace import Workspace, source_path
from tasks.tracking.redaction import redact
from tasks.tracking.run_record import now

PORT = 4200


def serve(workspace: Workspace, *, server: str | None = None, host: str = "127.0.0.1", port: int | None = None,
          limit: int = 1, say: Callable[[str], None] = print) -> None:
    """Runs until SIGINT, SIGTERM or SIGHUP.

    Args:
        workspace: the checkout.
        server: API of a Prefect server that runs already; None starts one.
        host: address that the one started here listens on.
        port: of its pages; None takes 4200, or a free one if that is taken.
        limit: scheduled runs at the same time.
        say: is told what is going on.

    Raises:
        Busy: this repository is served already.
        SettingsError: `server` is no address of an API.
        NotAvailable: the given server does not answer.
        FewstepError: the port is taken, or the server started here stops.
    """
    def busy(holder: dict) -> Busy:
        who = f" (process {holder['pid']}): {holder['url']}" if holder else ""
        return Busy(f"`fewstep serve` runs already{who}")

    with held(serving_path(workspace), busy, private=True) as lock:
        reach_loopback(os.environ)
        with _given(workspace, server) if server else _started(workspace, host, port) as to:
            lock.say(asdict(Serving(url=to.url, token=to.token, pid=os.getpid(), started=now())))
            adopt(prefect_environment(workspace, f"{to.url}/api", to.token))
            os.environ.update({"FEWSTEP_SERVE_PID": str(os.getpid()), "PYTHONPATH": source_path(dict(os.environ)),
                               SERVED_ROOT: str(workspace.root), "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"})
            say(to.said)
            from flows.scheduling.schedule_runner import ScheduleRunner  # Prefect reads its environment on import

            with telemetry.of_server(workspace):
                asyncio.run(ScheduleRunner(workspace, to, limit, say).run())


@contextlib.contextmanager
def _started(workspace: Workspace, host: str, port: int | None) -> Iterator[ServedTo]:
    """A server of our own, for the duration of the block."""
    port = port if port is not None else (PORT if is_free(host, PORT) else 0)
    log = workspace.shared / "logs" / "serve.log"
    child = start_prefect(workspace, log, pages=True, host=host, port=port)

    def require_alive() -> None:
        if child.process.poll() is not None:
            raise FewstepError("Prefect's server has stopped", hint=f"its output is in {log}")

    try:
        child.wait("/api/health", "Prefect's server")
        yield ServedTo(child.url, child.token, f"Prefect {with_token(child.url, child.token)}   (its log: {log})",
                       require_alive)
    finally:
        child.stop()


@contextlib.contextmanager
def _given(workspace: Workspace, api_url: str) -> Iterator[ServedTo]:
    """The server at `api_url`, which others use too."""
    address = api_url.rstrip("/")
    if not address.endswith("/api"):
        raise SettingsError(f"--server {redact(api_url)}: expected the address of a Prefect API, ending in /api",
                            hint="such as http://prefect.example.org:4200/api")
    require(address)
    yield ServedTo(address.removesuffix("/api"), None, f"serving to the Prefect server at {redact(address)}",
                   suffix=f" on {owner(workspace)}")
