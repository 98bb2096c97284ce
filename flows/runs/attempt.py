"""A pipeline run from its start to its end: record, lock, Prefect, MLflow, what is shown, and what is said afterwards.

`python -m flows.runs.attempt RUN` works on an existing record in the checkout it names; that is how isolated and scheduled runs
are executed, in a process of their own.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

from fewstep.util.errors import FewstepError, NotAvailable, StageFailed
from flows.output import console, duration, report_error, say
from flows.runs.signals import EXIT_CODE, interruptible
from tasks.config import schema as settings_module
from tasks.config.schema import Settings
from tasks.engine.events import Observers
from tasks.engine.graph import STAGES
from tasks.engine.plan import PlanItem
from tasks.storage.locks import die_with_parent, workspace_lock
from tasks.storage.workspace import Workspace
from tasks.storage.worktrees import code_state
from tasks.tracking.redaction import redact
from tasks.tracking.run_records import (
    CANCELLED,
    FAILED,
    FINISHED,
    RecordObserver,
    RunError,
    RunRecord,
    RunStore,
    StageRecord,
    settings_digest,
)


def settings_of(record: RunRecord) -> Settings:
    """The settings frozen in a record. Raises SettingsError where this version no longer understands them."""
    from fewstep.util.config import parse

    return parse(Settings, record.settings, f"run {record.id}")


def freeze(settings: Settings) -> dict:
    return settings.model_dump(mode="json")


def differences(record: RunRecord, settings: Settings) -> list[str]:
    """Keys whose values in `settings` are not those of the run, as `distill.images: 200000 → 1000`."""
    from tasks.engine.plan import changes

    return [f"{name}: {old} → {new}" for name, old, new in changes(record.settings, freeze(settings))]


def named_problems(items: list[PlanItem]) -> list[str]:
    """What plain `dvc repro` recorded wrongly, as every command that makes a plan says."""
    return [item.false_record for item in items if item.false_record]


def preview(workspace: Workspace, sets: list[str], params: Path | None) -> tuple[Settings, str]:
    """What params.yaml would be after `--params` and `--set`: settings and text. Writes nothing to the checkout."""
    source = Path(params) if params else workspace.params
    settings_module.read(source)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / source.name
        copy.write_bytes(source.read_bytes())
        settings = settings_module.write_overrides(copy, sets)
        return settings, copy.read_text()


def unfinished_here(workspace: Workspace, settings: Settings) -> RunRecord | None:
    """The run with these settings in this checkout that was left unfinished, if it is the newest with them."""
    digest = settings_digest(freeze(settings))
    return RunStore(workspace).unfinished(digest, isolated=False, root=str(workspace.root))


def new_here(workspace: Workspace, settings: Settings, run: str) -> RunRecord:
    """A record for a new run in this checkout, with the commit and the uncommitted changes it is made of."""
    store, state = RunStore(workspace), code_state(workspace)
    record = store.new(freeze(settings), run=run, commit=state.commit, modified=state.modified)
    (store.folder_of(run) / "params.yaml").write_bytes(workspace.params.read_bytes())
    keep_changes(store, record, state.diff)
    return record


def keep_changes(store: RunStore, record: RunRecord, diff: str) -> None:
    """The uncommitted changes a run was started with, as a patch beside its record."""
    if diff:
        (store.folder_of(record.id) / "changes.diff").write_bytes((diff + "\n").encode(errors="surrogateescape"))


def execute(workspace: Workspace, record: RunRecord, *, json_mode: bool = False) -> RunRecord:
    """Work on the run until it is finished. Raises what stopped it, after the record and MLflow say so.

    The checkout's lock is taken (Busy otherwise) and kept; Ctrl-C and SIGTERM end it as a cancelled run that can be
    continued (SystemExit with code 130).
    """
    store, settings = RunStore(workspace), settings_of(record)
    out = console(stderr=json_mode)
    with workspace_lock(workspace, record.id), store.hold(record):
        for stage in STAGES:
            record.stages.setdefault(stage.name, StageRecord())
        attempt = Attempt(workspace, store, record, settings, out)
        with interruptible(attempt.say_stopping, attempt.give_up):
            attempt.run()
    return record


class Attempt:
    """One process's work on a run."""

    def __init__(self, workspace, store, record, settings, out):
        from flows.runs.progress_view import LiveView

        self.workspace, self.store, self.record, self.settings, self.out = workspace, store, record, settings, out
        self.log = store.folder_of(record.id) / "prefect.log"
        title = f"run {record.id}" + ("" if len(record.attempts) == 1 else f", attempt {len(record.attempts)}")
        self.view = LiveView([stage.name for stage in STAGES], title, out)
        self.tracking = None
        self.session = None
        self.stopping = False

    def say_stopping(self) -> None:
        self.stopping = True
        self.view.notice("stopping; units of work under way are being finished (again to stop at once)")

    def give_up(self) -> None:
        self.store.close(self.record, CANCELLED)

    def run(self) -> None:
        with self.view.shown():
            try:
                self._run()
                return
            except BaseException as error:
                # once a signal has come, any error is its echo: libraries turn the exception into others of their own
                if self.stopping or not isinstance(error, Exception):
                    self._close(CANCELLED, None, "KILLED")
                else:
                    self._close(FAILED, error, "FAILED")
                    raise self._in_words(error) from error
        say(self.out, f"stopped; continue with: {self.record.resume_command}")
        sys.exit(EXIT_CODE)

    def _run(self) -> None:
        from flows.orchestration.prefect_api import prefect_api
        from flows.runs.log_capture import drain, logs_to

        self.view.notice("starting Prefect and MLflow …", passing=True)
        with prefect_api(self.workspace, self.settings.profile, self.log, meanwhile=self._open):
            from flows.orchestration.pipeline_flow import run_pipeline

            with logs_to(self.log):
                try:
                    run_pipeline(self.session)
                except BaseException as error:
                    if self.stopping:
                        self._tell_prefect_cancelled()
                    if self.stopping or not isinstance(error, Exception):
                        raise
                    self._judge(error)
                finally:
                    drain()
        self._finish()

    def _open(self) -> None:
        """What can be done while Prefect's server starts: the imports, MLflow's run."""
        from flows.runs.log_capture import logs_to

        with logs_to(self.log):
            from flows.orchestration.pipeline_flow import Session
            from tasks.tracking.mlflow_logger import MlflowObserver

            self.tracking = MlflowObserver(self.workspace, self.settings, self.record)
            tags = {"fewstep.commit": self.record.commit or "", "fewstep.isolated": str(self.record.isolated).lower()}
            self.record.mlflow = {"uri": redact(self.workspace.mlflow_uri), "run": self.tracking.start(tags)}
            self.store.save(self.record)
        observer = Observers([RecordObserver(self.store, self.record), self.view, self.tracking])
        self.session = Session(self.workspace, self.settings, self.store, self.record, observer)

    def _judge(self, error: Exception) -> None:
        """Raises `error` in words. A Prefect server that went away after the last stage costs only Prefect's record."""
        if not _is_prefect_unreachable(error):
            raise error
        if len(self.session.outcomes) == len(STAGES):
            self.view.notice("warning: the Prefect server is gone; every stage is done, only Prefect's record is "
                             "behind (`fewstep reconcile` mends it)")
            return
        raise NotAvailable(f"the Prefect server at {redact(os.environ.get('PREFECT_API_URL', ''))} stopped answering: "
                           f"{redact(str(error).splitlines()[0] if str(error) else type(error).__name__)}",
                           hint=f"finished work is kept · continue with: {self.record.resume_command}") from error

    def _tell_prefect_cancelled(self) -> None:
        from flows.runs.reconcile import set_state

        run = self.record.prefect.get("flow_run")
        if run:
            set_state(run, "Cancelled", f"stopped by hand; continue with: {self.record.resume_command}")

    def _finish(self) -> None:
        self.tracking.finish("FINISHED")
        self.store.close(self.record, FINISHED)

    def _close(self, state: str, error: BaseException | None, mlflow_status: str) -> None:
        """Records a bad end. The reason stays the first one when MLflow cannot be told of it."""
        details = None
        if error is not None:
            stage = self.session.failed_stage if self.session else None
            details = RunError(stage=stage, kind=type(error).__name__, message=redact(str(error)),
                               hint=getattr(error, "hint", None), command=self.record.resume_command)
        self.store.close(self.record, state, details)
        if self.tracking is not None and self.tracking.parent_id is not None:
            try:
                self.tracking.finish(mlflow_status)
            except NotAvailable as absent:
                self.view.notice(f"MLflow's run stays open until `fewstep reconcile`: {absent}")


    def _in_words(self, error: Exception) -> FewstepError:
        """The error with the way to continue; one that nobody foresaw in one line, its traceback in the run's log."""
        if isinstance(error, FewstepError):
            if "fewstep resume" not in (error.hint or ""):
                way = f"continue with: {self.record.resume_command}"
                error.hint = f"{error.hint} · {way}" if error.hint else way
            return error
        with open(self.log, "a", encoding="utf-8") as log:
            log.write("".join(traceback.format_exception(error)))
        stage = self.session.failed_stage if self.session else None
        return StageFailed(f"{f'stage {stage!r}' if stage else 'the run'} failed: {type(error).__name__}: "
                           f"{redact(str(error))}",
                           hint=f"the traceback is in {self.log} · continue with: {self.record.resume_command}")


def _is_prefect_unreachable(error: BaseException) -> bool:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        module = type(error).__module__ or ""
        if module.startswith(("httpx", "httpcore", "websockets")) or "Failed to reach API" in str(error):
            return True
        error = error.__cause__
    return False


def say_done(record: RunRecord, out) -> None:
    """The end of a successful run: how long it took, the summary table, what to do next."""
    from tasks.tracking.run_records import seconds_between

    took = seconds_between(record.attempts[-1].started, record.ended) if record.attempts else None
    say(out, f"run {record.id} finished in {duration(took)}", style="bold green")
    kept = RunStore(Workspace(Path(record.root))).folder_of(record.id) / "grid.png" if record.isolated else None
    show_results(Path(record.root), record.name, out, kept)


def show_results(root: Path, name: str, out, pictures: Path | None = None) -> None:
    """The summary table of what is published in a checkout, and what comes next. `pictures`: where the grid is kept."""
    if (root / "data" / "evaluation" / "evaluation.json").exists():
        from tasks.report import results_table

        out.print()
        out.print(results_table.table(root))
    pictures = pictures or root / "data" / "evaluation" / "grid.png"
    page = pictures.parent.parent / "report" / "report.html" if pictures.parent.name == "evaluation" else (
        pictures.parent / "report" / "report.html")
    lines = [("look at", str(page if page.exists() else pictures))] if pictures.exists() else []
    model = f"fewstep-{name}@candidate"
    registration = root / "data" / "registration" / "registration.json"
    if registration.exists():
        found = json.loads(registration.read_text())
        model = f"{found['model']}/{found['version']}"
        became = "promoted to @champion" if found["promoted"] else f"not promoted: {'; '.join(found['reasons'])}"
        lines.append(("model", f"{model}, {became}"))
    lines += [("sample", f"fewstep sample {model}"), ("lineage", f"fewstep lineage {model}"), ("pages", "fewstep ui")]
    out.print()
    for label, text in lines:
        say(out, f"{label:<9}{text}")


def main() -> None:
    """Child process of an isolated or scheduled run."""
    parent = os.environ.pop("FEWSTEP_PARENT", None)
    die_with_parent(int(parent) if parent else None)
    run, json_mode = sys.argv[1], "--json" in sys.argv[2:]
    try:
        workspace = Workspace.find()
        record = RunStore(workspace).load(run)
        execute(workspace, record, json_mode=json_mode)
    except FewstepError as error:
        report_error(error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
