"""`fewstep serve`: Prefect's server with its pages, and the runner that executes scheduled runs, in the foreground.

The server and the runs are children of this process and ask the kernel to die with it.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING
from uuid import UUID

from fewstep.util.errors import Busy, FewstepError
from flows.orchestration import schedules
from flows.orchestration.child_server import ChildServer, is_free, source_path
from flows.orchestration.prefect_api import Serving, prefect_environment, serving, serving_path, start_prefect
from flows.runs.log_capture import logs_to
from tasks.storage.workspace import Workspace
from tasks.tracking.run_records import now

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

PORT = 4200
LOOK_SECONDS = 3.0          # how soon a new schedule takes effect


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
            asyncio.run(_Service(workspace, child, limit, say).run())
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


class _Service:
    """The runner, and the watch over schedules and server."""

    def __init__(self, workspace: Workspace, child: ChildServer, limit: int, say: Callable[[str], None]):
        from prefect.runner import Runner  # Prefect reads its environment when imported

        self.workspace, self.child, self.say = workspace, child, say
        self.runner = Runner(name="fewstep", limit=limit, pause_on_shutdown=False, query_seconds=5)
        self.deployed: dict[str, tuple[schedules.Schedule, UUID]] = {}

    async def run(self) -> None:
        """Until a signal, or an error of the runner or the watch, which is raised."""
        from flows.orchestration.silent_runs import create_automation  # Prefect reads its environment when imported

        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        with logs_to(self.workspace.shared / "logs" / "serve.log"):
            await create_automation()
            await self._serve_approvals()
            await self._sync()
            if not self.deployed:
                self.say('no schedule yet: `fewstep schedule --cron "0 2 * * *"` adds one')
            runner = asyncio.create_task(self.runner.start())
            watch = asyncio.create_task(self._watch())
            ended = asyncio.create_task(stop.wait())
            await asyncio.sleep(0)      # the runner installs a signal handler of its own when it starts
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, stop.set)
            self.say("serving; Ctrl-C ends it")
            await asyncio.wait({runner, watch, ended}, return_when=asyncio.FIRST_COMPLETED)
            self.say("stopping; runs under way stop too and can be resumed")
            watch.cancel()
            ended.cancel()
            if not runner.done():
                await self.runner.astop()
            results = await asyncio.gather(runner, watch, return_exceptions=True)
            for error in results:
                if isinstance(error, Exception):
                    raise error

    async def _serve_approvals(self) -> None:
        """The deployment whose suspended runs are decisions waiting for a person."""
        from prefect.deployments.runner import EntrypointType  # Prefect reads its environment when imported

        from flows.orchestration.approval_flow import DEPLOYMENT, approval

        await self.runner.aadd_flow(approval, name=DEPLOYMENT, entrypoint_type=EntrypointType.MODULE_PATH)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self.child.process.poll() is not None:
                raise FewstepError("Prefect's server has stopped", hint=f"its output is in {self.child.log}")
            await self._sync()

    async def _sync(self) -> None:
        """Makes Prefect's deployments those of the schedule files."""
        from prefect.client.orchestration import get_client  # Prefect reads its environment when imported
        from prefect.deployments.runner import EntrypointType
        from prefect.schedules import Cron

        from flows.orchestration.deployments import parameters, scheduled

        wanted = {item.name: item for item in schedules.load_all(self.workspace) if item.pool is None}
        for name, schedule in wanted.items():
            if name in self.deployed and self.deployed[name][0] == schedule:
                continue
            identity = await self.runner.aadd_flow(
                scheduled, name=name, schedule=Cron(schedule.cron, timezone=schedule.timezone), tags=["fewstep"],
                parameters=parameters(self.workspace, schedule), entrypoint_type=EntrypointType.MODULE_PATH)
            self.deployed[name] = (schedule, identity)
            self.say(f"schedule {name}: {schedule.cron} {schedule.timezone} {' '.join(schedule.sets)}".rstrip())
        async with get_client() as client:
            for name in [name for name in self.deployed if name not in wanted]:
                await client.delete_deployment(self.deployed.pop(name)[1])
                self.say(f"schedule {name}: removed")
            if self.deployed:
                await self._delete_left_over(client, set(wanted))

    @staticmethod
    async def _delete_left_over(client: PrefectClient, wanted: set[str]) -> None:
        """Deletes the deployments of schedules that a former `serve` left behind."""
        from flows.orchestration.deployments import NAME  # Prefect reads its environment when imported

        for item in await client.read_deployments():
            if item.name not in wanted and item.work_pool_name is None \
                    and (await client.read_flow(item.flow_id)).name == NAME:
                await client.delete_deployment(item.id)
