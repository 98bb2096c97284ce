"""One process's work on a pipeline run, from its start to its end: record, locks, Prefect, MLflow, what is shown.

`python -m flows.runs.attempt RUN` works on an existing record in the checkout it names: that is how isolated and
scheduled runs are executed, each in a process of its own.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from rich.console import Console

from fewstep.util.errors import FewstepError, NotAvailable, StageFailed
from flows.orchestration.prefect_api import prefect_api
from flows.output import console, report_error
from flows.runs.log_capture import drain, logs_to
from flows.runs.new_run import settings_of
from flows.runs.progress_view import LiveView
from flows.runs.signals import EXIT_CODE, interruptible
from flows.system_errors import in_words
from flows.telemetry import json_log, telemetry
from flows.telemetry.log_view import LogView
from tasks.config.schema import Settings
from tasks.engine.events import Observer, Observers
from tasks.engine.graph import STAGES
from tasks.storage.locks import die_with_parent, workspace_lock
from tasks.storage.sharing.host import owner
from tasks.storage.workspace import Workspace
from tasks.tracking.log_place import process_works_on
from tasks.tracking.redacted_logs import redact_logs_and_tracebacks
from tasks.tracking.redaction import redact
from tasks.tracking.run_record import CANCELLED, FAILED, FINISHED, KILLED, RunError, RunRecord, StageRecord
from tasks.tracking.run_records import RecordObserver, RunStore
from tasks.tracking.shared_runs import RunSharer, RunTakenOver, WatchedRun

if TYPE_CHECKING:   # they load Prefect, MLflow or OpenTelemetry
    from flows.orchestration.pipeline_flow import Session
    from flows.telemetry.otel_observer import OtelObserver
    from tasks.tracking.mlflow_logger import MlflowObserver


def execute(workspace: Workspace, record: RunRecord, *, json_mode: bool = False) -> RunRecord:
    """Work on the run until it is finished.

    The checkout's lock is taken and kept. Ctrl-C, SIGTERM and a closed terminal end it as a cancelled run that can be
    continued.

    Args:
        workspace: the checkout.
        record: of the run.
        json_mode: whether stdout is kept free for a JSON answer.

    Raises:
        Busy: another run works in the checkout, or another host works on this run, or took it over meanwhile.
        SystemExit: with code 130, after a signal.
        FewstepError: the run failed, after its record and MLflow say so.
    """
    store, settings = RunStore(workspace), settings_of(record)
    process_works_on(record.id)
    out = console(stderr=json_mode)
    with workspace_lock(workspace, record.id), store.hold(record) as sharer:
        for stage in STAGES:
            record.stages.setdefault(stage.name, StageRecord())
        attempt = Attempt(workspace, store, record, settings, sharer, out)
        with interruptible(attempt.say_stopping, attempt.give_up):
            try:
                attempt.run()
            finally:
                attempt.end_telemetry()
    return record


class Attempt:
    """One process's work on a run."""

    def __init__(self, workspace: Workspace, store: RunStore, record: RunRecord, settings: Settings,
                 sharer: RunSharer, out: Console):
        self.workspace, self.store, self.record, self.settings, self.out = workspace, store, record, settings, out
        self.sharer = sharer
        self.log = store.folder_of(record.id) / "prefect.log"
        title = f"run {record.id}" + ("" if len(record.attempts) == 1 else f", attempt {len(record.attempts)}")
        self.view = LogView(title) if json_log.asked() else LiveView([stage.name for stage in STAGES], title, out)
        self.tracking: MlflowObserver | None = None
        self.session: Session | None = None
        self.telemetry: OtelObserver | None = None
        self.stopping = False

    def say_stopping(self) -> None:
        """At the first signal."""
        self.stopping = True
        self.view.notice("stopping; units of work under way are being finished (again to stop at once)")

    def give_up(self) -> None:
        """At the second signal: the record says how the run ended, nothing else is waited for."""
        self.store.close(self.record, CANCELLED)

    def end_telemetry(self) -> None:
        """Sends what a collector does not have yet; the record says how the run ended."""
        if self.telemetry is not None:
            with logs_to(self.log):
                self.telemetry.finish(self.record.state)

    def run(self) -> None:
        """Works until the run has ended. Raises as `execute` does."""
        with self.view.shown():
            try:
                self._run()
                return
            except BaseException as error:
                # once a signal has come, any error is its echo: libraries turn the exception into others of their own
                if self.stopping or not isinstance(error, Exception):
                    self._close(CANCELLED, None, "KILLED")
                elif isinstance(error, RunTakenOver):
                    self.store.close(self.record, KILLED)   # of this attempt; MLflow's run is the other host's now
                    raise
                else:
                    self._close(FAILED, error, "FAILED")
                    raise self._in_words(error) from error
        self.view.notice(f"stopped; continue with: {self.record.resume_command}")
        sys.exit(EXIT_CODE)

    def _run(self) -> None:
        self.view.notice("starting Prefect and MLflow …", passing=True)
        with prefect_api(self.workspace, self.settings.profile, self.log, meanwhile=self._open), logs_to(self.log):
            try:
                self.session.run()
            except BaseException as error:
                if self.stopping:
                    self._tell_prefect_cancelled()
                if self.stopping or not isinstance(error, Exception):
                    raise
                self._judge(error)
            finally:
                drain()
        self.tracking.finish("FINISHED")
        self.store.close(self.record, FINISHED)
        if self.session.left_over is not None:
            self.view.notice("the next `fewstep run` sends what was made, and registers it")

    def _open(self) -> None:
        """The imports and MLflow's run, while Prefect's server starts."""
        with logs_to(self.log):
            from flows.orchestration.pipeline_flow import Session  # Prefect reads its environment on import
            from tasks.tracking.mlflow_logger import MlflowObserver  # MLflow takes seconds to load

            self.tracking = MlflowObserver(self.workspace, self.settings, self.record)
            self.telemetry = telemetry.of_run(self.workspace, self.record, self.tracking.waiting)
            tags = {"fewstep.commit": self.record.commit or "", "fewstep.isolated": str(self.record.isolated).lower(),
                    "fewstep.host": owner(self.workspace)}
            if self.record.code is not None:
                tags["fewstep.code"] = self.record.code.told(40)
            self.record.mlflow = {"uri": redact(self.workspace.mlflow_uri), "run": self.tracking.start(tags)}
            self.store.save(self.record)
        told = [WatchedRun(self.sharer), RecordObserver(self.store, self.record), self.view, self.tracking]
        observer = _Told(told + ([self.telemetry] if self.telemetry else []), lambda: self.stopping)
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
        from flows.orchestration.flow_run_states import cancel  # Prefect reads its environment on import

        run = self.record.prefect.get("flow_run")
        if run:
            cancel(run, f"stopped by hand; continue with: {self.record.resume_command}")

    def _close(self, state: str, error: BaseException | None, mlflow_status: str) -> None:
        """Records a bad end. The reason stays the first one when MLflow cannot be told of it."""
        details = None
        if error is not None:
            stage = self.session.failed_stage if self.session else None
            details = RunError(stage=stage, kind=type(error).__name__, message=redact(str(error)),
                               hint=error.hint if isinstance(error, FewstepError) else None,
                               command=self.record.resume_command)
        self.store.close(self.record, state, details)
        if self.tracking is not None and self.tracking.parent_id is not None:
            try:
                self.tracking.finish(mlflow_status)
            except NotAvailable as absent:
                self.view.notice(f"MLflow's run stays open until `fewstep reconcile`: {absent}")

    def _in_words(self, error: Exception) -> FewstepError:
        """The error with the way to continue; an unforeseen one in one line, its traceback in the run's log."""
        way = f"continue with: {self.record.resume_command}"
        if isinstance(error, FewstepError):
            if self.record.resume_command not in (error.hint or ""):
                error.hint = f"{error.hint} · {way}" if error.hint else way
            return error
        with open(self.log, "a", encoding="utf-8") as log:
            log.write(redact("".join(traceback.format_exception(error))))
        stage = self.session.failed_stage if self.session else None
        return StageFailed(f"{f'stage {stage!r}' if stage else 'the run'} failed: {type(error).__name__}: "
                           f"{redact(str(error))}", hint=f"the traceback is in {self.log} · {way}")


class _Told(Observers):
    """Listeners of a run; once it is stopping, any error of a stage is the echo of a signal, whatever its class."""

    def __init__(self, observers: Iterable[Observer], stopping: Callable[[], bool]):
        super().__init__(observers)
        self.stopping = stopping

    def stage_failed(self, stage, error):
        if self.stopping():
            self.stage_interrupted(stage)
        else:
            super().stage_failed(stage, error)


def _is_prefect_unreachable(error: BaseException) -> bool:
    """Whether the error, or what caused it, is that Prefect's server did not answer."""
    import httpx  # Prefect's clients; a run with nothing to do does not load them
    from websockets.exceptions import WebSocketException

    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, (httpx.HTTPError, WebSocketException)):
            return True
        error = error.__cause__
    return False


def main() -> None:
    """The child process of an isolated or scheduled run."""
    redact_logs_and_tracebacks()
    parent = os.environ.pop("FEWSTEP_PARENT", None)
    die_with_parent(int(parent) if parent else None)
    run, json_mode = sys.argv[1], "--json" in sys.argv[2:]
    try:
        workspace = Workspace.find()
        execute(workspace, RunStore(workspace).load(run), json_mode=json_mode)
    except (FewstepError, OSError) as error:
        said = error if isinstance(error, FewstepError) else in_words(error)
        report_error(said)
        sys.exit(said.exit_code)


if __name__ == "__main__":
    main()
