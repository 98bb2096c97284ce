"""Deployments of schedules to a Prefect work pool: repository, commit and settings, and no path of any host.

A worker clones the commit into a folder that it deletes afterwards; what was made lies in the store that hosts share.
prefect.yaml deploys the same with Prefect's own command.
"""

from __future__ import annotations

import contextlib

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema

from flows.orchestration.pools import clone_step, created, require_pool
from flows.orchestration.served_root import SERVED_ROOT
from flows.orchestration.silent_runs import POOL_TAG, ensure_automations
from flows.scheduling.deployments import ENTRYPOINT, NAME, parameters, scheduled
from flows.scheduling.schedules import Schedule
from tasks.storage.cloneable import Cloneable


def deploy(schedule: Schedule) -> None:
    """Creates or updates the deployment of a schedule on the server that this process talks to, and the automations
    that act where its runs fall silent.

    Raises NotAvailable without such a pool, FewstepError for what Prefect refuses.
    """
    cron = DeploymentScheduleCreate(schedule=CronSchedule(cron=schedule.cron, timezone=schedule.timezone))
    with get_client(sync_client=True) as client:
        require_pool(client, schedule.pool)
        created(client, NAME, schedule.name, schedule.pool, schedule.commit, _environment(schedule),
                schedules=[cron], parameters=parameters(schedule), tags=[POOL_TAG], entrypoint=ENTRYPOINT,
                pull_steps=_steps(schedule),
                parameter_openapi_schema=parameter_schema(scheduled).model_dump(exclude_unset=True),
                enforce_parameter_schema=True)
    ensure_automations()


def _steps(schedule: Schedule) -> list[dict]:
    """What a worker clones; it works in what it cloned last, which has the flows."""
    workspace = Cloneable(schedule.repository, schedule.commit)
    if schedule.code_repository is None:
        return [clone_step(workspace)]
    code = Cloneable(schedule.code_repository, schedule.code_commit)
    return [clone_step(one, name) for one, name in ((workspace, "workspace"), (code, "code"))]


def _environment(schedule: Schedule) -> dict[str, str]:
    return {} if schedule.code_repository is None else {SERVED_ROOT: "../workspace"}


def remove(schedule: Schedule) -> None:
    """Deletes the deployment of a schedule, if it is still there."""
    with get_client(sync_client=True) as client, contextlib.suppress(ObjectNotFound):
        client.delete_deployment(client.read_deployment_by_name(f"{NAME}/{schedule.name}").id)
