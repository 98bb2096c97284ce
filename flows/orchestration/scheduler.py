"""`fewstep serve`: Prefect's server with its pages, and the runner that executes scheduled runs, in the foreground.

Everything it starts dies with it: the server and the runs are its children and ask the kernel for that.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

from fewstep.util.errors import Busy, FewstepError
from flows.orchestration import schedules
from flows.orchestration.prefect_api import (
    HEARTBEAT,
    Child,
    is_free,
    prefect_environment,
    serving_path,
    source_path,
    start_prefect,
)
from tasks.storage.locks import held
from tasks.storage.workspace import Workspace
from tasks.tracking.run_records import now

PORT = 4200
LOOK_SECONDS = 3.0          # how soon a new schedule takes effect
SILENCE = 6 * HEARTBEAT     # seconds; a flow run that was silent for so long is marked Crashed by the automation
AUTOMATION = "fewstep: mark silent runs as crashed"


def serve(workspace: Workspace, *, host: str = "127.0.0.1", port: int | None = None, limit: int = 1,
          say: Callable[[str], None] = print) -> None:
    """Runs until SIGINT or SIGTERM. Raises Busy when this repository is served already, FewstepError for a taken port
    or a server that stops."""
    def busy(said: dict) -> Busy:
        return Busy(f"`fewstep serve` runs already (process {said.get('pid')}): {said.get('url')}")

    with held(serving_path(workspace), busy) as lock:
        port = port if port is not None else (PORT if is_free(host, PORT) else 0)
        log = workspace.shared / "logs" / "serve.log"
        child = start_prefect(workspace, log, pages=True, host=host, port=port)
        try:
            child.wait("/api/health", "Prefect's server")
            lock.say({"url": child.url, "pid": os.getpid(), "started": now()})
            os.environ.update(prefect_environment(workspace, f"{child.url}/api"))
            os.environ.update({"FEWSTEP_SERVE_PID": str(os.getpid()), "PYTHONPATH": source_path(dict(os.environ)),
                               "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"})
            say(f"Prefect {child.url}   (its log: {log})")
            asyncio.run(_Service(workspace, child, limit, say).run())
        finally:
            child.stop()


class _Service:
    """The runner, and the watch over schedules and server."""

    def __init__(self, workspace: Workspace, child: Child, limit: int, say: Callable[[str], None]):
        from prefect.runner import Runner

        self.workspace, self.child, self.say = workspace, child, say
        self.runner = Runner(name="fewstep", limit=limit, pause_on_shutdown=False, query_seconds=5)
        self.deployed: dict[str, tuple[schedules.Schedule, UUID]] = {}

    async def run(self) -> None:
        from flows.runs.log_capture import logs_to

        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        with logs_to(self.workspace.shared / "logs" / "serve.log"):
            await create_zombie_automation()
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
        from prefect.deployments.runner import EntrypointType

        from flows.orchestration.approval_flow import DEPLOYMENT, approval

        await self.runner.aadd_flow(approval, name=DEPLOYMENT, entrypoint_type=EntrypointType.MODULE_PATH)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self.child.process.poll() is not None:
                raise FewstepError("Prefect's server has stopped", hint=f"its output is in {self.child.log}")
            await self._sync()

    async def _sync(self) -> None:
        """Makes Prefect's deployments what the schedule files say."""
        from prefect.client.orchestration import get_client
        from prefect.deployments.runner import EntrypointType
        from prefect.schedules import Cron

        from flows.orchestration.deployments import NAME, parameters, scheduled

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
            if not self.deployed:
                return
            for item in await client.read_deployments():
                if item.name not in wanted and item.work_pool_name is None and item.entrypoint \
                        and item.entrypoint.endswith("scheduled") and await self._is_ours(client, item, NAME):
                    await client.delete_deployment(item.id)     # left by a former `serve`

    @staticmethod
    async def _is_ours(client, deployment, flow_name: str) -> bool:
        return (await client.read_flow(deployment.flow_id)).name == flow_name


async def create_zombie_automation() -> None:
    """An automation on the server that marks flow runs without a heartbeat as crashed; made once."""
    from prefect.client.orchestration import get_client
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.states import StateType

    async with get_client() as client:
        if await client.read_automations_by_name(AUTOMATION):
            return
        final = [f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Cancelled", "Crashed")]
        await client.create_automation(AutomationCore(
            name=AUTOMATION, description="Created by `fewstep serve`; `fewstep reconcile` does this without a server.",
            trigger=EventTrigger(after={"prefect.flow-run.heartbeat"}, expect={"prefect.flow-run.heartbeat", *final},
                                 match={"prefect.resource.id": "prefect.flow-run.*"},
                                 match_related={"prefect.resource.role": "tag",
                                                "prefect.resource.id": "prefect.tag.fewstep"},
                                 for_each={"prefect.resource.id"}, posture=Posture.Proactive, threshold=1,
                                 within=timedelta(seconds=SILENCE)),
            actions=[ChangeFlowRunState(state=StateType.CRASHED, message="no heartbeat: its process is gone")]))
