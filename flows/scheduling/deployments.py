"""The flow that a schedule starts: it makes an isolated run, in a process of its own, and waits for it.

Prefect's runner or a work pool's worker calls `scheduled` in a process of theirs. The run itself works in a worktree
with its own code and appears in Prefect as a flow run of its own, named like its record. A worker that dies leaves this
flow run unfinished; the next one to which it is given finds the run by its settings and continues it.
"""

# Annotations are objects here, no texts: Prefect's runner hands the flow to a process by pickle, without the names that
# a text would be looked up in.

import logging
import os
import signal
import time

import prefect.runtime
from prefect import flow, get_run_logger
from prefect.client.schemas import State
from prefect.exceptions import TerminationSignal
from prefect.states import Completed

from fewstep.util.errors import StageFailed
from flows.orchestration.flow_run_locks import working_on
from flows.orchestration.next_worker import leave_to_next_worker, note_run, noted_run
from flows.orchestration.served_root import served_workspace
from flows.orchestration.silent_runs import ALREADY_RUNNING
from flows.runs import isolated, profiles
from flows.runs.extractors_ready import require_extractors
from flows.runs.signals import EXIT_CODE
from flows.scheduling.changed_settings import Changes, assignments, changes
from flows.scheduling.one_of_a_kind import AlreadyRunning, one_of_a_kind
from flows.scheduling.schedules import Schedule
from flows.telemetry import json_log
from tasks.config.preflight import validate
from tasks.engine.plan import plan
from tasks.storage.locks import die_with_parent
from tasks.storage.workspace import Workspace
from tasks.tracking.all_runs import AllRuns
from tasks.tracking.redacted_logs import redact_logs_and_tracebacks, without_secrets
from tasks.tracking.run_record import FINISHED

NAME = "fewstep-schedule"
ENTRYPOINT = "flows/scheduling/deployments.py:scheduled"
_BEGINNINGS = 5     # of one flow run: what ends its worker each time would do so for ever


@flow(name=NAME, flow_run_name="{name}", persist_result=False, result_serializer="json")
def scheduled(name: str = "pipeline", settings: Changes | None = None,
              overrides: Changes | None = None) -> dict | State:
    """One run of the pipeline: what `fewstep run --isolated --set …` does in this checkout.

    Args:
        name: of the schedule.
        settings: what differs from params.yaml.
        overrides: what differs from `settings` in this run alone.
    """
    redact_logs_and_tracebacks()
    parent = os.environ.get("FEWSTEP_SERVE_PID")
    if parent:
        die_with_parent(int(parent))
    else:       # a worker of a pool: when it stops or dies there is time to leave all to the next one
        die_with_parent(by=signal.SIGTERM)
    workspace = served_workspace()
    sets = assignments(settings or {}) + assignments(overrides or {})
    with working_on(workspace, str(prefect.runtime.flow_run.id)), without_secrets():
        try:
            return run_isolated(workspace, name, sets)
        except TerminationSignal:
            leave_to_next_worker()
            raise


def run_isolated(workspace: Workspace, name: str, sets: list[str]) -> dict | State:
    """Plans, runs and tidies up. Where the same run is being worked on already, that is said, and no failure.

    Raises what the settings make impossible, StageFailed when the run failed.
    """
    former, runs = noted_run(), AllRuns(workspace)
    if former in runs.ids() and runs.get(former).state == FINISHED:
        return {"state": FINISHED, "run": former}   # begun once more, as its end was not heard of
    settings, text = isolated.resolve(workspace, sets, None)
    profiles.check(settings.profile)
    validate(workspace.root, settings)
    log = get_run_logger()
    items = plan(workspace, settings)
    if isolated.nothing_to_do(workspace, items):
        _say(log, name, "nothing to do: everything is known with these settings")
        return {"state": "current", "run": None}
    require_extractors(workspace, settings, items)
    if prefect.runtime.flow_run.run_count > _BEGINNINGS:
        raise StageFailed(f"begun {_BEGINNINGS} times, and its process was gone each time",
                          hint=f"the run is {former}; `fewstep resume` continues it by hand")
    try:
        with one_of_a_kind(workspace, settings, trigger=str(prefect.runtime.flow_run.id), ours=former):
            record = isolated.start(workspace, settings, text, origin=name)
            note_run(record.id)
            _say(log, name, f"run {record.id} has begun; `fewstep status {record.id}` shows it")
            record = isolated.execute(workspace, record, quiet=True)
    except AlreadyRunning as other:
        _say(log, name, str(other))
        return Completed(name=ALREADY_RUNNING, message=str(other))
    except SystemExit as error:
        _say(log, name, f"run {record.id} has stopped; continue with: {record.resume_command}")
        if error.code == EXIT_CODE:
            leave_to_next_worker()
        raise StageFailed(f"run {record.id} ended with code {error.code}", hint=record.resume_command) from None
    isolated.tidy(workspace, record)
    _say(log, name, f"run {record.id} has finished")
    return {"state": record.state, "run": record.id}


def _say(log: logging.Logger | logging.LoggerAdapter, name: str, text: str) -> None:
    """To Prefect's pages and, as this process belongs to `fewstep serve`, into its terminal."""
    log.info(text)
    if json_log.asked():
        json_log.write("info", text, schedule=name)
        return
    print(f"{time.strftime('%H:%M:%S')} {name}: {text}", flush=True)


def parameters(schedule: Schedule) -> dict:
    """Arguments of `scheduled` for a schedule, as JSON data."""
    return {"name": schedule.name, "settings": changes(schedule.sets)}
