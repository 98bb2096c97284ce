"""`fewstep resume`: continue a run where it stopped."""

from __future__ import annotations

import typer

from fewstep.util.errors import Busy, NotAvailable, SettingsError
from fewstep.util.files import write_atomically
from flows.commands.pipeline.run import finished, show_isolated
from flows.output import console, emit, examples, say
from flows.runs import isolated, profiles
from flows.runs.attempt import execute
from flows.runs.new_run import differences, settings_of
from flows.runs.storage_ready import require_storage
from tasks.config import params_file
from tasks.config.preflight import validate
from tasks.storage.code_state import sources
from tasks.storage.locks import workspace_lock
from tasks.storage.workspace import Workspace
from tasks.tracking.all_runs import AllRuns, KnownRun
from tasks.tracking.run_record import FINISHED, UNFINISHED, RunRecord
from tasks.tracking.run_records import RunStore


def add(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @app.command(epilog=examples("fewstep resume", "fewstep resume digits-20261121-115700-ab12", "fewstep resume ab12",
                                 "fewstep resume ab12 --restore"))
    def resume(
        run: str | None = typer.Argument(None, help="Id of the run, or its beginning or end; default: the newest "
                                         "unfinished one."),
        restore: bool = typer.Option(False, "--restore", help="Put the run's settings back into params.yaml first."),
        as_json: bool = typer.Option(False, "--json", help="Print the result as JSON; progress goes to stderr."),
    ) -> None:
        """Continue a failed, killed or cancelled run where it stopped, in the same MLflow run; also another host's."""
        workspace = Workspace.find()
        require_storage(workspace)
        runs = AllRuns(workspace)
        known = runs.find(run) if run is not None else _newest_unfinished(runs)
        record = known.record
        if known.alive:
            where = f" on {known.host}" if not known.here else ""
            raise Busy(f"run {record.id} is being worked on now{where}",
                       hint=f"`fewstep status {record.id}` shows it")
        if record.state == FINISHED:
            emit({"state": FINISHED, "run": record.id, "resumed": False}, as_json,
                 lambda out: say(out, f"run {record.id} is finished: nothing to continue"))
            return
        profiles.check(record.settings["profile"])
        if not known.here:
            record = runs.adopt(known)
            say(console(stderr=as_json), f"continuing what {known.host} left" + _other_code(workspace, record))
        if record.isolated:
            show_isolated(workspace, isolated.execute(workspace, record, json_mode=as_json), as_json)
        else:
            answer = finished(_here(workspace, record, restore, as_json))
            emit(answer.data, as_json, answer.show)


def _newest_unfinished(runs: AllRuns) -> KnownRun:
    """Of the runs that this host began or continued."""
    for run in runs.store.ids():
        if runs.store.load(run).state in UNFINISHED:
            known = runs.get(run)       # another host may have continued it
            if known.record.state in UNFINISHED and not known.alive:
                return known
    raise NotAvailable("no unfinished run", hint="`fewstep run` starts one, `fewstep status --all` lists them")


def _other_code(workspace: Workspace, record: RunRecord) -> str:
    """What to say where this checkout has other code than the run was started with."""
    here = sources(workspace)
    started = record.commit if record.code is None else record.code.commit
    now = here.workspace.commit if here.code is None else here.code.commit
    if record.isolated or not started or now == started:
        return ""
    return (f"; it was started with the code of {started[:10]}, here is {(now or 'no commit')[:10]}: stages "
            "whose code differs are made anew")


def _here(workspace: Workspace, record: RunRecord, restore: bool, as_json: bool) -> RunRecord:
    """Continues a run of a checkout. Raises SettingsError where it is not this one, or params.yaml is another."""
    if str(workspace.root) != record.root:
        other = Workspace.find(record.root)
        raise SettingsError(f"run {record.id} works in {other.root}",
                            hint=f"cd {other.root} && {record.resume_command}")
    changed = differences(record, params_file.load(workspace.params))
    with workspace_lock(workspace, record.id):
        if changed and not restore:
            more = f" (and {len(changed) - 3} more)" if len(changed) > 3 else ""
            raise SettingsError(f"params.yaml is no longer that of run {record.id}: {'; '.join(changed[:3])}{more}",
                                hint=f"`{record.resume_command} --restore` puts its settings back; `fewstep run` takes "
                                     "the present ones")
        if changed:
            frozen = RunStore(workspace).folder_of(record.id) / "params.yaml"
            write_atomically(workspace.params, frozen.read_bytes())
        validate(workspace.root, settings_of(record))
        return execute(workspace, record, json_mode=as_json)
