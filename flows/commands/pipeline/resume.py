"""`fewstep resume`: continue a run where it stopped."""

from __future__ import annotations

import typer

from flows.output import emit, examples, say


def add(app: typer.Typer) -> None:
    @app.command(epilog=examples("fewstep resume", "fewstep resume digits-20261121-115700-ab12", "fewstep resume ab12",
                                 "fewstep resume ab12 --restore"))
    def resume(
        run: str | None = typer.Argument(None, help="Id of the run, or its beginning or end; default: the newest "
                                         "unfinished one."),
        restore: bool = typer.Option(False, "--restore", help="Put the run's settings back into params.yaml first."),
        as_json: bool = typer.Option(False, "--json", help="Print the result as JSON; progress goes to stderr."),
    ) -> None:
        """Continue a failed, killed or cancelled run where it stopped, in the same MLflow run."""
        from fewstep.util.errors import Busy
        from flows.commands.pipeline.run import done
        from flows.runs import profiles
        from tasks.storage.workspace import Workspace
        from tasks.tracking.run_records import RunStore

        workspace = Workspace.find()
        store = RunStore(workspace)
        record = _choose(store, run)
        if store.alive(record.id):
            raise Busy(f"run {record.id} is being worked on now", hint=f"`fewstep status {record.id}` shows it")
        if record.state == "finished":
            emit({"state": "finished", "run": record.id, "resumed": False}, as_json,
                 lambda out: say(out, f"run {record.id} is finished: nothing to continue"))
            return
        profiles.check(record.settings["profile"])
        act = _isolated if record.isolated else _here
        result, show, afterwards = done(*act(workspace, record, restore, as_json))
        emit(result, as_json, show)
        afterwards()


def _choose(store, run: str | None):
    from fewstep.util.errors import NotAvailable
    from tasks.tracking.run_records import UNFINISHED

    if run is not None:
        return store.find(run)
    for name in store.ids():
        record = store.load(name)
        if record.state in UNFINISHED and not store.alive(name):
            return record
    raise NotAvailable("no unfinished run", hint="`fewstep run` starts one, `fewstep status --all` lists them")


def _here(workspace, record, restore: bool, as_json: bool):
    from fewstep.util.errors import SettingsError
    from fewstep.util.files import write_atomically
    from flows.runs.attempt import differences, execute, settings_of
    from tasks.config import params_file
    from tasks.config.preflight import validate
    from tasks.storage.locks import workspace_lock
    from tasks.storage.workspace import Workspace
    from tasks.tracking.run_records import RunStore

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
        return execute(workspace, record, json_mode=as_json), None


def _isolated(workspace, record, restore: bool, as_json: bool):
    from flows.runs import isolated

    record = isolated.execute(workspace, record, json_mode=as_json)
    return record, lambda: isolated.tidy(workspace, record)
