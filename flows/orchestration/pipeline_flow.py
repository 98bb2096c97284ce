"""The Prefect flow: one task per stage, one per round or batch of shards inside it. When and where, never what.

What a stage does, whether it is up to date, and what survives a kill is decided by tasks.engine.runner and the stage's
verified manifest; Prefect's own record of the run (its cache, its task history) is never asked.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

from flows.orchestration import decisions
from flows.orchestration.unit_executor import RETRY, PrefectExecutor
from tasks.config.schema import Settings
from tasks.engine.events import Observer
from tasks.engine.graph import BY_NAME, STAGES
from tasks.engine.runner import run_stage
from tasks.storage.workspace import Workspace
from tasks.tracking.redaction import redact
from tasks.tracking.run_records import RunError, RunRecord, RunStore

NAME = "fewstep"


@dataclass
class Session:
    """What the tasks of one run need and Prefect must not see: they look it up by the run's id."""

    workspace: Workspace
    settings: Settings
    store: RunStore
    record: RunRecord
    observer: Observer
    outcomes: dict[str, Any] = field(default_factory=dict)
    failed_stage: str | None = None


_SESSIONS: dict[str, Session] = {}


@task(name="stage", task_run_name="{stage}", cache_policy=NO_CACHE, persist_result=False, **RETRY)
def stage_task(run: str, stage: str) -> dict:
    """One stage, in this process. Returns what Prefect shows of it: state, key, digest, seconds."""
    session = _SESSIONS[run]
    session.failed_stage = stage    # until it is done
    outcome = run_stage(session.workspace, stage, session.settings, observer=session.observer,
                        execute=PrefectExecutor(run, stage))
    session.failed_stage = None
    session.outcomes[stage] = outcome
    if BY_NAME[stage].aside:
        link_report(session)
    if outcome.state == "made" and "model" in outcome.manifest.summary:    # it registered one
        decisions.emit_of_run(session.workspace, outcome.manifest.summary)
    return {"stage": stage, "state": outcome.state, "key": outcome.manifest.key, "digest": outcome.manifest.digest,
            "seconds": round(outcome.seconds, 3)}


def link_report(session: Session) -> None:
    """The report as artifacts of Prefect's run: a link to the page, and the verdict with its table to read there."""
    from prefect.artifacts import create_link_artifact, create_markdown_artifact

    from tasks.report import FOLDER, PAGE, results_table

    page = session.store.folder_of(session.record.id) / FOLDER / PAGE
    if not page.is_file():
        return
    document = results_table.load(session.workspace.data)
    create_link_artifact(key="report", link=page.resolve().as_uri(), link_text=f"report of {session.record.id}",
                         description=results_table.verdict(document))  # fmt: skip
    create_markdown_artifact(key="summary", markdown=results_table.markdown(document), description="All figures, in short")


@task(name="push", task_run_name="push to the DVC remote", cache_policy=NO_CACHE, persist_result=False, **RETRY)
def push_task(run: str) -> dict:
    """Copies what dvc.lock names to DVC's default remote and announces it there; returns how many files that were."""
    from tasks.storage import dvc_repo, remote_outputs

    session = _SESSIONS[run]
    sent = dvc_repo.push(session.workspace)
    for stage, note in remote_outputs.announce(session.workspace).items():
        session.observer.stage_warned(stage, note)
    return {"files": sent}


def record_failure(flow, flow_run, state) -> None:
    """Prefect's hook for a failed, crashed or cancelled run: what failed and how to continue goes into the record."""
    session = _SESSIONS.get(flow_run.parameters.get("run"))
    if session is None:
        return
    session.record.prefect["state"] = state.name
    session.record.error = RunError(stage=session.failed_stage, message=redact((state.message or state.name)[:1000]),
                                    command=session.record.resume_command)
    session.store.save(session.record)


@flow(name=NAME, flow_run_name="{run}", task_runner=ThreadPoolTaskRunner(max_workers=max(1, os.cpu_count() or 1)),
      persist_result=False, result_serializer="json", validate_parameters=False,
      on_failure=[record_failure], on_crashed=[record_failure], on_cancellation=[record_failure])
def pipeline(run: str) -> dict:
    """The stages in order. `run` is the id of the run's record; the session must have been opened in this process."""
    from prefect.runtime import flow_run

    session = _SESSIONS[run]
    session.record.prefect = {"flow_run": str(flow_run.id), "state": "Running"}
    session.store.save(session.record)
    results = {stage.name: stage_task(run, stage.name) for stage in STAGES}
    results["push"] = push_task(run)
    session.record.prefect["state"] = "Completed"
    return results


def run_pipeline(session: Session) -> dict[str, Any]:
    """Runs the flow for `session` and returns the outcomes by stage. Raises what the failing stage raised."""
    from prefect import tags

    run = session.record.id
    _SESSIONS[run] = session
    try:
        with tags("fewstep", f"host:{os.uname().nodename}"):
            pipeline(run)
        return session.outcomes
    finally:
        del _SESSIONS[run]
