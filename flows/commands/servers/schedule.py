"""`fewstep schedule`: runs at set times, executed by `fewstep serve` or a Prefect work pool."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fewstep.util.errors import DataDiffers, SettingsError
from flows.commands.pipeline.run import Sets
from flows.orchestration.prefect_api import prefect_api, serving
from flows.output import emit, examples, report_error, say
from flows.runs import isolated
from flows.runs.log_capture import logs_to
from flows.scheduling import schedules
from flows.scheduling.schedules import Schedule
from tasks.config.preflight import validate
from tasks.config.schema import Settings
from tasks.storage.cloneable import Cloneable, cloneable
from tasks.storage.workspace import Workspace

CRON = typer.Option(None, metavar="LINE", help="Minute, hour, day, month, weekday.")
NAME = typer.Option("nightly", help="Name of the schedule; an existing one is replaced.")
TIMEZONE = typer.Option("UTC", help="Time zone of the cron line, such as Europe/Berlin.")
POOL = typer.Option(None, help="A Prefect work pool, whose workers clone the pushed commit, instead of "
                    "`fewstep serve`; needs PREFECT_API_URL.")
NOT_SERVED = "nothing is serving: `fewstep serve` executes schedules while it runs"


def add(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    group = typer.Typer(help="Runs at set times, executed by `fewstep serve` or a work pool.",
                        invoke_without_command=True)

    @group.callback(epilog=examples('fewstep schedule --cron "0 2 * * *"',
                                    'fewstep schedule --name weekly --cron "0 3 * * 0" --set distill.recipe=dmd2',
                                    "fewstep schedule list", "fewstep schedule remove weekly"))
    def create(ctx: typer.Context, cron: str | None = CRON, name: str = NAME, sets: Sets = None,
               timezone: str = TIMEZONE, pool: str | None = POOL,
               as_json: bool = typer.Option(False, "--json", help="Print it as JSON.")) -> None:
        """Schedule the pipeline: at each time, what `fewstep run --isolated --set …` would do then."""
        if ctx.invoked_subcommand is None:
            _create(cron, name, sets or [], timezone, pool, as_json)

    @group.command("list", epilog=examples("fewstep schedule list", "fewstep schedule list --json"))
    def listed(as_json: bool = typer.Option(False, "--json", help="Print them as JSON.")) -> None:
        """The schedules, and whether anything serves them. A file that holds none is named, and the exit code is 3."""
        workspace = Workspace.find()
        good, bad = schedules.load_good(workspace)
        data = [item.model_dump() | {"served_by": _server(workspace, item)} for item in good]
        broken = [{"name": name, "error": why} for name, why in bad.items()]
        emit([*data, *broken], as_json, lambda out: _show(data, out) if data or not bad else None)
        for why in bad.values():
            report_error(DataDiffers(why, hint="mend the file, or remove it and create the schedule anew"))
        if bad:
            raise typer.Exit(DataDiffers.exit_code)

    @group.command("remove", epilog=examples("fewstep schedule remove nightly"))
    def removed(name: str = typer.Argument(help="Name of the schedule."),
                as_json: bool = typer.Option(False, "--json", help="Print it as JSON.")) -> None:
        """Remove a schedule; a run of it that is under way goes on."""
        workspace = Workspace.find()
        schedule = schedules.remove(workspace, name)
        if schedule.pool is not None:
            with _given_server(workspace):
                from flows.scheduling import pool_deployments  # Prefect reads its environment on import

                pool_deployments.remove(schedule)
        emit({"removed": name}, as_json, lambda out: out.print(f"schedule {name} removed"))

    app.add_typer(group, name="schedule")


def _create(cron: str | None, name: str, sets: list[str], timezone: str, pool: str | None, as_json: bool) -> None:
    workspace = Workspace.find()
    if cron is None:
        raise SettingsError("--cron is missing", hint='`fewstep schedule --cron "0 2 * * *"`, or `schedule list`')
    schedules.check_name(name)
    schedules.check_cron(cron, timezone)
    settings, _ = isolated.resolve(workspace, sets, None)
    validate(workspace.root, settings)
    schedule = Schedule(name=name, cron=cron, timezone=timezone, sets=tuple(sets), pool=pool)
    if pool is not None:
        if "PREFECT_API_URL" not in os.environ:
            raise SettingsError("--pool needs a Prefect server", hint="set PREFECT_API_URL to its address, …/api")
        source = _for_workers(workspace, settings)
        schedule = schedule.model_copy(update={"repository": source.repository, "commit": source.commit})
        if source.code is not None:
            schedule = schedule.model_copy(update={"code_repository": source.code.repository,
                                                   "code_commit": source.code.commit})
        with _given_server(workspace):
            from flows.scheduling.pool_deployments import deploy  # Prefect reads its environment on import

            deploy(schedule)
    schedule = schedules.save(workspace, schedule)
    server = _server(workspace, schedule)
    emit(schedule.model_dump() | {"served_by": server}, as_json, lambda out: _say_created(schedule, server, out))


def _for_workers(workspace: Workspace, settings: Settings) -> Cloneable:
    """What workers clone. Raises SettingsError where they would lack something that this checkout has."""
    outside = isolated.outside_git(workspace, settings)
    if outside:
        named = ", ".join(f"{key} ({path})" for key, path in outside.items())
        raise SettingsError(f"workers elsewhere have no file that is not in git: {named}",
                            hint="commit and push it, or schedule without --pool")
    return cloneable(workspace)


@contextlib.contextmanager
def _given_server(workspace: Workspace) -> Iterator[None]:
    """Talk to the Prefect server that PREFECT_API_URL names."""
    log = workspace.shared / "logs" / "prefect.log"
    with prefect_api(workspace, "server", log), logs_to(log):
        yield


def _server(workspace: Workspace, schedule: Schedule) -> str | None:
    """What executes the schedule: an address or a pool; None while nothing does."""
    if schedule.pool is not None:
        address = os.environ.get("PREFECT_API_URL")
        return f"work pool {schedule.pool} at {address}" if address else None
    serve = serving(workspace)
    return serve.url if serve else None


def _say_created(schedule: Schedule, server: str | None, out: Console) -> None:
    say(out, f"schedule {schedule.name}: {schedule.cron} {schedule.timezone} {' '.join(schedule.sets)}".rstrip())
    if server:
        say(out, f"served by {server}")
    else:
        say(out, NOT_SERVED, style="yellow")


def _show(data: list[dict], out: Console) -> None:
    if not data:
        out.print('no schedule: `fewstep schedule --cron "0 2 * * *"` makes one')
        return
    table = Table.grid(padding=(0, 2))
    for item in data:
        pool = f"pool {item['pool']}, commit {(item['commit'] or '')[:10]}" if item["pool"] else ""
        cells = item["name"], item["cron"], item["timezone"], " ".join(item["sets"]), pool
        table.add_row(*map(Text, cells))
    out.print(table)
    if any(item["served_by"] is None for item in data):
        say(out, NOT_SERVED, style="yellow")
    for address in sorted({item["served_by"] for item in data if item["served_by"]}):
        say(out, f"served by {address}", style="dim")
