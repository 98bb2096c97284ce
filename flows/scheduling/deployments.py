"""The flow that a schedule starts: it makes an isolated run, in a process of its own, and waits for it.

Prefect's runner or a work pool's worker calls `scheduled` in a process of theirs. The run itself works in a worktree
with its own code and appears in Prefect as a flow run of its own, named like its record.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from pathlib import Path

import prefect.runtime
from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron

from fewstep.util.errors import FewstepError, NotAvailable, StageFailed
from flows.orchestration.flow_run_locks import working_on
from flows.orchestration.prefect_api import HEARTBEAT
from flows.orchestration.served_root import served_workspace
from flows.runs import isolated
from flows.scheduling.schedules import Schedule
from flows.scheduling.silent_runs import create_automation
from tasks.config.preflight import validate
from tasks.engine.plan import plan
from tasks.storage.locks import die_with_parent
from tasks.storage.workspace import Workspace
from tasks.tracking.redacted_logs import redact_logs_and_tracebacks, without_secrets

NAME = "fewstep-schedule"
ENTRYPOINT = "flows/scheduling/deployments.py:scheduled"


@flow(name=NAME, flow_run_name="{name}", persist_result=False, result_serializer="json", validate_parameters=False)
def scheduled(name: str, sets: list[str]) -> dict:
    """One run of the schedule `name`: what `fewstep run --isolated --set …` does in the checkout that is served."""
    redact_logs_and_tracebacks()
    parent = os.environ.get("FEWSTEP_SERVE_PID")
    die_with_parent(int(parent) if parent else None)
    workspace = served_workspace()
    with working_on(workspace, str(prefect.runtime.flow_run.id)), without_secrets():
        return run_isolated(workspace, name, list(sets))


def run_isolated(workspace: Workspace, name: str, sets: list[str]) -> dict:
    """Plans, runs and tidies up. Raises what the settings make impossible, StageFailed when the run failed."""
    settings, text = isolated.resolve(workspace, sets, None)
    validate(workspace.root, settings)
    log = get_run_logger()
    if isolated.nothing_to_do(workspace, plan(workspace, settings)):
        _say(log, name, "nothing to do: everything is known with these settings")
        return {"state": "current", "run": None}
    record = isolated.start(workspace, settings, text, origin=name)
    _say(log, name, f"run {record.id} has begun; `fewstep status {record.id}` shows it")
    try:
        record = isolated.execute(workspace, record, quiet=True)
    except SystemExit as error:
        _say(log, name, f"run {record.id} has stopped; continue with: {record.resume_command}")
        raise StageFailed(f"run {record.id} ended with code {error.code}", hint=record.resume_command) from None
    isolated.tidy(workspace, record)
    _say(log, name, f"run {record.id} has finished")
    return {"state": record.state, "run": record.id}


def _say(log: logging.Logger | logging.LoggerAdapter, name: str, text: str) -> None:
    """To Prefect's pages and, as this process belongs to `fewstep serve`, into its terminal."""
    log.info(text)
    print(f"{time.strftime('%H:%M:%S')} {name}: {text}", flush=True)


def parameters(schedule: Schedule) -> dict:
    """Arguments of `scheduled` for a schedule, as JSON data."""
    return {"name": schedule.name, "sets": list(schedule.sets)}


def deploy_to_pool(workspace: Workspace, schedule: Schedule) -> None:
    """Creates or updates the deployment of a schedule on the server that this process talks to, and the automation that
    marks silent runs as crashed.

    Raises NotAvailable without such a pool, FewstepError for what Prefect refuses.
    """
    source = scheduled.from_source(source=str(Path(__file__).resolve().parents[2]), entrypoint=ENTRYPOINT)
    try:
        with get_client(sync_client=True) as client:
            client.read_work_pool(schedule.pool)
        source.deploy(
            name=schedule.name, work_pool_name=schedule.pool, schedule=Cron(schedule.cron, timezone=schedule.timezone),
            parameters=parameters(schedule), tags=["fewstep"], build=False, push=False,
            print_next_steps=False, job_variables={"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT)}})
    except ObjectNotFound:
        raise NotAvailable(f"the Prefect server has no work pool {schedule.pool!r}", hint=f"`prefect work-pool create "
                           f"{schedule.pool} --type process` makes it") from None
    except ValueError as error:
        raise FewstepError(f"Prefect refused the deployment: {error}") from error
    asyncio.run(create_automation())


def remove_from_pool(schedule: Schedule) -> None:
    """Deletes the deployment of a schedule, if it is still there."""
    with get_client(sync_client=True) as client, contextlib.suppress(ObjectNotFound):
        client.delete_deployment(client.read_deployment_by_name(f"{NAME}/{schedule.name}").id)
