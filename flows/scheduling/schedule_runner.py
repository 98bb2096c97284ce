"""Prefect's runner for the schedules of a checkout: keeps its deployments those of the schedule files, runs them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from uuid import UUID

from httpx import TransportError
from prefect.client.orchestration import PrefectClient, get_client
from prefect.deployments.runner import EntrypointType
from prefect.exceptions import PrefectHTTPStatusError
from prefect.runner import Runner
from prefect.schedules import Cron

from flows.orchestration.approval_flow import approval, deployment_name
from flows.orchestration.silent_runs import TAG, ensure_automations
from flows.runs.log_capture import logs_to
from flows.runs.signals import ending_signals, leave_terminal
from flows.scheduling import schedules
from flows.scheduling.deployments import NAME, parameters, scheduled
from flows.scheduling.served_to import ServedTo
from tasks.storage.workspace import Workspace

LOOK_SECONDS = 3.0          # how soon a new schedule takes effect


class ScheduleRunner:
    """The runner, and the watch over schedules and server."""

    def __init__(self, workspace: Workspace, to: ServedTo, limit: int, say: Callable[[str], None]):
        self.workspace, self.to, self.say = workspace, to, say
        self.runner = Runner(name="fewstep", limit=limit, pause_on_shutdown=False, query_seconds=5)
        self.deployed: dict[str, tuple[schedules.Schedule, UUID]] = {}
        self.refused: dict[str, schedules.Schedule] = {}    # by Prefect's server; asked again when the file changes
        self.silent = False
        self.said: dict[str, str] = {}                      # what is wrong with the file of a schedule, by name

    async def run(self) -> None:
        """Until a signal, or an error of the runner or the watch, which is raised."""
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        with logs_to(self.workspace.shared / "logs" / "serve.log"):
            ensure_automations()
            await self._serve_approvals()
            await self._sync()
            if not self.deployed:
                self.say('no schedule yet: `fewstep schedule --cron "0 2 * * *"` adds one')
            runner = asyncio.create_task(self.runner.start())
            watch = asyncio.create_task(self._watch())
            ended = asyncio.create_task(stop.wait())
            await asyncio.sleep(0)      # the runner installs a signal handler of its own when it starts

            def end(number: int) -> None:
                if number == signal.SIGHUP:
                    leave_terminal()
                stop.set()

            for number in ending_signals():
                loop.add_signal_handler(number, end, number)
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
        await self.runner.aadd_flow(approval, name=deployment_name(self.workspace),
                                      entrypoint_type=EntrypointType.MODULE_PATH)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.to.require_alive()
            try:
                await self._sync()
                self.silent = False
            except (TransportError, PrefectHTTPStatusError) as error:
                if isinstance(error, PrefectHTTPStatusError) and error.response.status_code < 500:
                    raise
                if not self.silent:     # how long it may be away is for Prefect's runner to say
                    self.say("the Prefect server does not answer")
                self.silent = True

    async def _sync(self) -> None:
        """Makes Prefect's deployments those of the schedule files. A file that is no schedule is said, and the others
        are served; what was deployed under its name stays until it is mended or removed."""
        good, bad = schedules.load_good(self.workspace)
        wanted = {item.name: item for item in good if item.pool is None}
        self.refused = {name: item for name, item in self.refused.items() if wanted.get(name) == item}
        for name, schedule in wanted.items():
            if self.refused.get(name) == schedule:
                bad[name] = self.said[name]
            elif name not in self.deployed or self.deployed[name][0] != schedule:
                try:
                    await self._deploy(schedule)
                except (ValueError, PrefectHTTPStatusError) as error:
                    if isinstance(error, PrefectHTTPStatusError) and error.response.status_code >= 500:
                        raise       # the server is broken, not the schedule
                    self.refused[name] = schedule
                    bad[name] = f"Prefect refuses it: {' '.join(str(error).split())}"
        for name, why in bad.items():
            if self.said.get(name) != why:
                self.say(f"schedule {name} is not served: {why}")
        self.said = bad
        async with get_client() as client:
            for name in [name for name in self.deployed if name not in wanted and name not in bad]:
                await client.delete_deployment(self.deployed.pop(name)[1])
                self.say(f"schedule {name}: removed")
            if self.deployed:
                await self._delete_left_over(client, {self.to.name(name) for name in (*wanted, *bad)})

    async def _deploy(self, schedule: schedules.Schedule) -> None:
        identity = await self.runner.aadd_flow(
            scheduled, name=self.to.name(schedule.name), tags=[TAG], parameters=parameters(schedule),
            schedule=Cron(schedule.cron, timezone=schedule.timezone), entrypoint_type=EntrypointType.MODULE_PATH)
        self.deployed[schedule.name] = (schedule, identity)
        self.say(f"schedule {schedule.name}: {schedule.cron} {schedule.timezone} {' '.join(schedule.sets)}".rstrip())

    async def _delete_left_over(self, client: PrefectClient, wanted: set[str]) -> None:
        """Deletes the deployments of schedules that a former `serve` of this checkout left behind."""
        for item in await client.read_deployments():
            if item.name not in wanted and self.to.is_ours(item.name) and item.work_pool_name is None \
                    and (await client.read_flow(item.flow_id)).name == NAME:
                await client.delete_deployment(item.id)
