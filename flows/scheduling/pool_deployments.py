"""Deployments of schedules to a Prefect work pool: repository, commit and settings, and no path of any host.

A worker clones the commit into a folder that it deletes afterwards; what was made lies in the store that hosts share.
prefect.yaml deploys the same with Prefect's own command.
"""

from __future__ import annotations

import contextlib

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.utilities.callables import parameter_schema

from fewstep.util.errors import FewstepError, NotAvailable
from flows.orchestration.prefect_api import HEARTBEAT
from flows.orchestration.served_root import SERVED_ROOT
from flows.orchestration.silent_runs import POOL_TAG, ensure_automations
from flows.scheduling.deployments import ENTRYPOINT, NAME, parameters, scheduled
from flows.scheduling.schedules import Schedule
from tasks.tracking.redaction import redact

_CLONE = "prefect.deployments.steps.git_clone"


def deploy(schedule: Schedule) -> None:
    """Creates or updates the deployment of a schedule on the server that this process talks to, and the automations
    that act where its runs fall silent.

    Raises NotAvailable without such a pool, FewstepError for what Prefect refuses.
    """
    cron = DeploymentScheduleCreate(schedule=CronSchedule(cron=schedule.cron, timezone=schedule.timezone))
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(schedule.pool)
        except ObjectNotFound:
            raise NotAvailable(f"the Prefect server has no work pool {schedule.pool!r}",
                               hint=f"`prefect work-pool create {schedule.pool} --type process` makes it") from None
        try:
            client.create_deployment(
                client.create_flow_from_name(NAME), schedule.name, version=schedule.commit, schedules=[cron],
                parameters=parameters(schedule), work_pool_name=schedule.pool, tags=[POOL_TAG], entrypoint=ENTRYPOINT,
                pull_steps=_steps(schedule),
                parameter_openapi_schema=parameter_schema(scheduled).model_dump(exclude_unset=True),
                enforce_parameter_schema=True,
                job_variables={"env": _environment(schedule)})
        except PrefectHTTPStatusError as error:
            raise FewstepError(f"Prefect refused the deployment: {redact(error.response.text[:500])}") from error
    ensure_automations()


def _steps(schedule: Schedule) -> list[dict]:
    """What a worker clones; it works in what it cloned last, which has the flows."""
    workspace = {"repository": schedule.repository, "commit_sha": schedule.commit}
    if schedule.code_repository is None:
        return [{_CLONE: workspace}]
    code = {"repository": schedule.code_repository, "commit_sha": schedule.code_commit}
    return [{_CLONE: {**one, "clone_directory_name": name}} for name, one in (("workspace", workspace), ("code", code))]


def _environment(schedule: Schedule) -> dict[str, str]:
    return {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT),
            **({} if schedule.code_repository is None else {SERVED_ROOT: "../workspace"})}


def remove(schedule: Schedule) -> None:
    """Deletes the deployment of a schedule, if it is still there."""
    with get_client(sync_client=True) as client, contextlib.suppress(ObjectNotFound):
        client.delete_deployment(client.read_deployment_by_name(f"{NAME}/{schedule.name}").id)
