"""The Prefect flow of a run: one task per stage, inside it one per unit of work, and the push to the remote.

Stages that do not read each other may go side by side (`compute.side_by_side`): the second in a process of its own,
whose units are no tasks.

Every stage pushes its output when it is finished. Before anything is registered, all of them are on the remote: no
champion may exist whose bytes lie on one disk.

What a stage does, whether it is up to date, and what survives a kill is decided by tasks.engine.runner and the stage's
verified manifest; Prefect's record of the run (its cache, its task history) is never asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import prefect.runtime
from prefect import Flow, Task, flow, tags, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.client.schemas import FlowRun, State, TaskRun
from prefect.tasks import exponential_backoff

from fewstep.util.errors import NotAvailable
from flows.executors.engines import Engines
from flows.executors.left_over import left_over
from flows.executors.prefect_tasks import IN_PROCESS, prefect_tasks
from flows.executors.transient_errors import is_transient
from flows.orchestration.promotion_events import emit_of_run
from flows.orchestration.side_by_side import SideBySide
from flows.orchestration.silent_runs import TAG, ensure_automations
from flows.orchestration.stage_process import StageProcesses
from tasks.config.schema import Settings
from tasks.engine import graph
from tasks.engine.events import Observer, Observers
from tasks.engine.runner import Outcome, run_stage
from tasks.registry.registration_result import RegistrationResult
from tasks.report import FOLDER, PAGE, results_table
from tasks.stages.register import RegisterStage
from tasks.storage import remote_outputs
from tasks.storage.patient_push import sent
from tasks.storage.sharing.host import host_name
from tasks.storage.workspace import Workspace
from tasks.tracking.log_place import working_on
from tasks.tracking.redacted_logs import without_secrets
from tasks.tracking.redaction import redact
from tasks.tracking.run_record import RunError, RunRecord
from tasks.tracking.run_records import RunStore

NAME = "fewstep"
RETRIES = 3
DELAY = 2.0             # seconds before the first retry, doubled for each further one


@dataclass
class Session:
    """One process's work on a run, as the functions of Prefect's flow and tasks.

    They are methods, and not functions of a module, because Prefect stores the arguments of a flow in its database and
    looks into those of a task: what a run works with reaches them through `self` alone.

    Attributes:
        workspace, settings, store, record: the run.
        observer: who is told of its progress.
        outcomes: by stage, of those that are done.
        left_over: what is left for the next run although this one has not failed.
    """

    workspace: Workspace
    settings: Settings
    store: RunStore
    record: RunRecord
    observer: Observer
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    left_over: str | None = None

    def __post_init__(self):
        self._engines = Engines(self.settings)
        self._running: list[str] = []
        self._failed: str | None = None

    @property
    def failed_stage(self) -> str | None:
        """The stage that has failed, or the one that runs."""
        return self._failed or next(iter(self._running), None)

    def run(self) -> None:
        """Runs the flow. Raises what the failing stage raised."""
        hook = [self.record_failure]
        pipeline = flow(self.pipeline, name=NAME, flow_run_name="{run}", persist_result=False,
                        result_serializer="json", validate_parameters=False, on_failure=hook, on_crashed=hook,
                        on_cancellation=hook)
        ensure_automations()
        with self._engines, tags(TAG, f"host:{host_name()}"):
            pipeline(self.record.id)

    def pipeline(self, run: str) -> dict[str, dict]:
        """The stages in order, as Prefect's flow; `run` names it there. Returns what each task returned."""
        self.record.prefect = {"flow_run": str(prefect.runtime.flow_run.id), "state": "Running"}
        self.store.save(self.record)
        retry = {"retries": RETRIES, "retry_delay_seconds": exponential_backoff(DELAY), "retry_jitter_factor": 0.3,
                 "retry_condition_fn": self._retry_condition()}
        run_stage_task = task(self.stage, name="stage", task_run_name="{stage}", **IN_PROCESS, **retry)
        push_task = task(self.push, name="push", task_run_name="push to the DVC remote", **IN_PROCESS, **retry)
        results = self._made(run_stage_task)
        results["push"] = push_task()
        if not results["push"]["left"]:
            results |= {stage.name: run_stage_task(stage.name) for stage in graph.STAGES if not stage.in_dvc}
        self.record.prefect["state"] = "Completed"
        return results

    def _made(self, run_stage_task: Task) -> dict[str, dict]:
        """What the tasks of the stages in DVC returned: one after the other, or side by side where there is room."""
        left = left_over(self.settings.compute)
        if left is None:
            return {stage.name: run_stage_task(stage.name) for stage in graph.IN_DVC}
        processes = StageProcesses(self.workspace, self.record.id, left,
                                   self.store.folder_of(self.record.id) / "prefect.log")
        order = SideBySide({stage.name: stage.inputs for stage in graph.IN_DVC})
        return order.run(run_stage_task, lambda name: run_stage_task(name, processes), processes.stop)

    @without_secrets()
    def stage(self, stage: str, processes: StageProcesses | None = None) -> dict:
        """One stage, here or by one of `processes`. Returns what Prefect shows of it: state, key, digest, seconds."""
        self._running.append(stage)
        observer = Observers([self.observer, ReportArtifacts(self)])
        try:
            with working_on(stage=stage):
                if processes is not None:
                    outcome = processes.stage(stage, observer)
                else:
                    outcome = run_stage(self.workspace, stage, self.settings, observer=observer,
                                        execute=prefect_tasks(self._engines), nodes=self._engines.nodes(self.workspace),
                                        run=self.record.id)
        except BaseException:
            self._failed = self._failed or stage
            raise
        finally:
            self._running.remove(stage)
        if self._failed == stage:   # at a former try
            self._failed = None
        self.outcomes[stage] = outcome
        if isinstance(graph.stage(stage), RegisterStage) and outcome.state == "made":
            emit_of_run(self.workspace, RegistrationResult.model_validate(outcome.manifest.summary))
        return {"stage": stage, "state": outcome.state, "key": outcome.manifest.key, "digest": outcome.manifest.digest,
                "seconds": round(outcome.seconds, 3)}

    @without_secrets()
    def push(self) -> dict:
        """Copies what of dvc.lock is not there yet to DVC's default remote and announces it; returns how many files,
        and whether it is left for the next run, as the remote does not answer: no failure, as nothing is lost.
        """
        try:
            files, notes = sent(self.workspace, lambda: remote_outputs.share_all(self.workspace))
        except NotAvailable as error:
            self.left_over = f"what was made is on this disk alone, and nothing is registered: {error}"
            self.observer.stage_warned(graph.IN_DVC[-1].name, self.left_over)
            return {"files": 0, "left": True}
        for stage, note in notes.items():
            self.observer.stage_warned(stage, note)
        return {"files": files, "left": False}

    def record_failure(self, flow: Flow, flow_run: FlowRun, state: State) -> None:
        """Prefect's hook for a failed, crashed or cancelled run: records what failed and how to continue."""
        self.record.prefect["state"] = state.name
        self.record.error = RunError(stage=self.failed_stage, message=redact((state.message or state.name)[:1000]),
                                     command=self.record.resume_command)
        self.store.save(self.record)

    def _retry_condition(self) -> Callable[[Task, TaskRun, State], bool]:
        """Prefect's retry condition (it takes no method): whether the error of a task is a transient one. Here alone
        errors are tried again: the units of a stage that are done stay done.
        """

        def is_worth_retrying(task: Task, task_run: TaskRun, state: State) -> bool:
            error = state.result(raise_on_failure=False)
            if not is_transient(error):
                return False
            stage = task_run.name
            if stage in graph.BY_NAME:
                self.observer.stage_warned(stage, f"{type(error).__name__}: {error}; trying again")
                self.observer.stage_retried(stage, error)
            return True

        return is_worth_retrying


class ReportArtifacts(Observer):
    """The report as artifacts of Prefect's run: a link to the page, and the verdict with its table."""

    def __init__(self, session: Session):
        self.session = session

    def stage_aside(self, stage, folder):
        run = self.session.record.id
        page = self.session.store.folder_of(run) / FOLDER / PAGE    # kept, unlike `folder`
        if not page.is_file():
            return
        document = results_table.load(self.session.workspace.data)
        create_link_artifact(key="report", link=page.resolve().as_uri(), link_text=f"report of {run}",
                             description=results_table.verdict(document))
        create_markdown_artifact(key="summary", markdown=results_table.markdown(document),
                                 description="All figures, in short")
