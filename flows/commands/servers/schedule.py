"""`fewstep schedule`: runs at set times, executed by `fewstep serve` or a Prefect work pool."""

from __future__ import annotations

import typer

from flows.commands.pipeline.run import Sets
from flows.output import emit, examples, say


def add(app: typer.Typer) -> None:
    schedules = typer.Typer(help="Runs at set times, executed by `fewstep serve` or a work pool.",
                            invoke_without_command=True)

    @schedules.callback(epilog=examples('fewstep schedule --cron "0 2 * * *"',
                                        'fewstep schedule --name weekly --cron "0 3 * * 0" --set distill.recipe=dmd2',
                                        "fewstep schedule list", "fewstep schedule remove weekly"))
    def create(
        ctx: typer.Context,
        cron: str | None = typer.Option(None, metavar="LINE", help="Minute, hour, day, month, weekday."),
        name: str = typer.Option("nightly", help="Name of the schedule; an existing one is replaced."),
        sets: Sets = None,
        timezone: str = typer.Option("UTC", help="Time zone of the cron line, such as Europe/Berlin."),
        pool: str | None = typer.Option(None, help="A Prefect work pool instead of `fewstep serve`; needs "
                                        "PREFECT_API_URL."),
        as_json: bool = typer.Option(False, "--json", help="Print it as JSON."),
    ) -> None:
        """Schedule the pipeline: at each time, what `fewstep run --isolated --set …` would do then."""
        if ctx.invoked_subcommand is not None:
            return
        from fewstep.util.errors import SettingsError
        from flows.orchestration.schedules import Schedule, check_cron, save
        from flows.runs import isolated
        from tasks.config.preflight import validate
        from tasks.storage.workspace import Workspace

        workspace = Workspace.find()
        if cron is None:
            raise SettingsError("--cron is missing", hint='`fewstep schedule --cron "0 2 * * *"`, or `schedule list`')
        check_cron(cron, timezone)
        settings, _ = isolated.resolve(workspace, sets or [], None)
        validate(workspace.root, settings)
        schedule = Schedule(name, cron, timezone, tuple(sets or ()), pool)
        if pool is not None:
            _to_pool(workspace, schedule)
        schedule = save(workspace, schedule)
        data = schedule.to_dict() | {"served_by": _server(workspace, schedule)}
        emit(data, as_json, lambda out: _say_created(data, out))

    @schedules.command("list", epilog=examples("fewstep schedule list", "fewstep schedule list --json"))
    def listed(as_json: bool = typer.Option(False, "--json", help="Print them as JSON.")) -> None:
        """The schedules, and whether anything serves them."""
        from flows.orchestration.schedules import load_all
        from tasks.storage.workspace import Workspace

        workspace = Workspace.find()
        data = [item.to_dict() | {"served_by": _server(workspace, item)} for item in load_all(workspace)]
        emit(data, as_json, lambda out: _show(data, out))

    @schedules.command("remove", epilog=examples("fewstep schedule remove nightly"))
    def removed(name: str = typer.Argument(help="Name of the schedule."),
                as_json: bool = typer.Option(False, "--json", help="Print it as JSON.")) -> None:
        """Remove a schedule; a run of it that is under way goes on."""
        from flows.orchestration.schedules import remove
        from tasks.storage.workspace import Workspace

        workspace = Workspace.find()
        schedule = remove(workspace, name)
        if schedule.pool is not None:
            _from_pool(workspace, schedule)
        emit({"removed": name}, as_json, lambda out: out.print(f"schedule {name} removed"))

    app.add_typer(schedules, name="schedule")


def _server(workspace, schedule) -> str | None:
    """What executes the schedule: an address or a pool; None while nothing does."""
    import os

    from flows.orchestration.prefect_api import serving

    if schedule.pool is not None:
        address = os.environ.get("PREFECT_API_URL")
        return f"work pool {schedule.pool} at {address}" if address else None
    found = serving(workspace)
    return found["url"] if found else None


def _to_pool(workspace, schedule) -> None:
    import asyncio
    import os

    from fewstep.util.errors import FewstepError, NotAvailable, SettingsError
    from flows.orchestration.prefect_api import prefect_api

    if "PREFECT_API_URL" not in os.environ:
        raise SettingsError("--pool needs a Prefect server", hint="set PREFECT_API_URL to its address, …/api")
    log = workspace.shared / "logs" / "prefect.log"
    with prefect_api(workspace, "server", log):
        from prefect.exceptions import ObjectNotFound

        from flows.orchestration.deployments import deploy_to_pool
        from flows.orchestration.scheduler import create_zombie_automation
        from flows.runs.log_capture import logs_to

        with logs_to(log):
            try:
                deploy_to_pool(workspace, schedule)
                asyncio.run(create_zombie_automation())
            except (ObjectNotFound, ValueError) as error:
                if "work pool" in str(error).lower() or isinstance(error, ObjectNotFound):
                    raise NotAvailable(f"the Prefect server has no work pool {schedule.pool!r}", hint=f"`prefect "
                                       f"work-pool create {schedule.pool} --type process` makes it") from None
                raise FewstepError(f"Prefect refused the deployment: {error}") from error


def _from_pool(workspace, schedule) -> None:
    from flows.orchestration.prefect_api import prefect_api

    log = workspace.shared / "logs" / "prefect.log"
    with prefect_api(workspace, "server", log):
        from prefect.client.orchestration import get_client
        from prefect.exceptions import ObjectNotFound

        from flows.orchestration.deployments import NAME
        from flows.runs.log_capture import logs_to

        with logs_to(log), get_client(sync_client=True) as client:
            try:
                client.delete_deployment(client.read_deployment_by_name(f"{NAME}/{schedule.name}").id)
            except ObjectNotFound:
                return      # gone already


def _say_created(data: dict, out) -> None:
    say(out, f"schedule {data['name']}: {data['cron']} {data['timezone']} {' '.join(data['sets'])}".rstrip())
    if data["served_by"]:
        say(out, f"served by {data['served_by']}")
    else:
        say(out, "nothing is serving: `fewstep serve` executes schedules while it runs", style="yellow")


def _show(data: list[dict], out) -> None:
    from rich.table import Table

    if not data:
        out.print('no schedule: `fewstep schedule --cron "0 2 * * *"` makes one')
        return
    table = Table.grid(padding=(0, 2))
    for item in data:
        pool = f"pool {item['pool']}" if item["pool"] else ""
        table.add_row(item["name"], item["cron"], item["timezone"], " ".join(item["sets"]), pool)
    out.print(table)
    if any(item["served_by"] is None for item in data):
        say(out, "nothing is serving: `fewstep serve` executes schedules while it runs", style="yellow")
    for address in sorted({item["served_by"] for item in data if item["served_by"]}):
        say(out, f"served by {address}", style="dim")
