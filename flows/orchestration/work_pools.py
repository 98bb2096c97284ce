"""Schedules for a Prefect work pool: deployments on the server that PREFECT_API_URL names."""

from __future__ import annotations

import asyncio
import os

from fewstep.util.errors import FewstepError, NotAvailable, SettingsError
from flows.orchestration.prefect_api import prefect_api
from flows.orchestration.schedules import Schedule
from flows.runs.log_capture import logs_to
from tasks.storage.workspace import Workspace


def deploy(workspace: Workspace, schedule: Schedule) -> None:
    """Creates or updates the deployment of a schedule, and the automation that marks silent runs as crashed.

    Raises SettingsError without PREFECT_API_URL, NotAvailable without such a pool, FewstepError for what Prefect
    refuses.
    """
    if "PREFECT_API_URL" not in os.environ:
        raise SettingsError("--pool needs a Prefect server", hint="set PREFECT_API_URL to its address, …/api")
    log = _log(workspace)
    with prefect_api(workspace, "server", log), logs_to(log):
        from prefect.client.orchestration import get_client  # Prefect reads its environment when imported
        from prefect.exceptions import ObjectNotFound

        from flows.orchestration.deployments import deploy_to_pool
        from flows.orchestration.silent_runs import create_automation

        try:
            with get_client(sync_client=True) as client:
                client.read_work_pool(schedule.pool)
            deploy_to_pool(workspace, schedule)
            asyncio.run(create_automation())
        except ObjectNotFound:
            raise NotAvailable(f"the Prefect server has no work pool {schedule.pool!r}", hint=f"`prefect work-pool "
                               f"create {schedule.pool} --type process` makes it") from None
        except ValueError as error:
            raise FewstepError(f"Prefect refused the deployment: {error}") from error


def remove(workspace: Workspace, schedule: Schedule) -> None:
    """Deletes the deployment of a schedule, if it is still there."""
    log = _log(workspace)
    with prefect_api(workspace, "server", log), logs_to(log):
        from prefect.client.orchestration import get_client  # Prefect reads its environment when imported
        from prefect.exceptions import ObjectNotFound

        from flows.orchestration.deployments import NAME

        with get_client(sync_client=True) as client:
            try:
                client.delete_deployment(client.read_deployment_by_name(f"{NAME}/{schedule.name}").id)
            except ObjectNotFound:
                return


def _log(workspace: Workspace):
    return workspace.shared / "logs" / "prefect.log"
