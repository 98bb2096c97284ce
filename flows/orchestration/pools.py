"""Deployments to Prefect's work pools: what their workers clone, and run."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import WorkerStatus
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from fewstep.util.errors import FewstepError, NotAvailable
from flows.orchestration.prefect_api import HEARTBEAT
from tasks.storage.cloneable import Cloneable
from tasks.tracking.redaction import redact

_CLONE = "prefect.deployments.steps.git_clone"


def require_pool(client: SyncPrefectClient, name: str) -> None:
    """Raises NotAvailable where the server has no such pool."""
    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        raise NotAvailable(f"the Prefect server has no work pool {name!r}",
                           hint=f"`prefect work-pool create {name} --type process` makes it") from None


def how_it_stands(client: SyncPrefectClient, name: str, own: str | None) -> str:
    """Why flow runs of a pool may not begin, in words. `own`: id of a flow run that is waiting for them."""
    pool = client.read_work_pool(name)
    if pool.is_paused:
        return f"work pool {name!r} is paused: `prefect work-pool resume {name}`"
    if not any(worker.status == WorkerStatus.ONLINE for worker in client.read_workers_for_work_pool(name)):
        return f"work pool {name!r} has no worker that is online: `prefect worker start --pool {name}`"
    if pool.concurrency_limit is None:
        return f"work pool {name!r} has workers, which have not begun what they were given (see their logs)"
    inside = own is not None and client.read_flow_run(UUID(own)).work_pool_name == name
    return (f"work pool {name!r} does {pool.concurrency_limit} flow runs at once"
            + (", this run itself among them" if inside else "")
            + f": `prefect work-pool set-concurrency-limit {name} …` raises it")  # fmt: skip


def clone_step(source: Cloneable, folder: str | None = None) -> dict[str, Any]:
    """How a worker clones a commit, into this folder below its own; it works in what it cloned last."""
    named = {} if folder is None else {"clone_directory_name": folder}
    return {_CLONE: {"repository": source.repository, "commit_sha": source.commit, **named}}


def created(client: SyncPrefectClient, flow: str, name: str, pool: str, version: str,
            environment: dict[str, str] | None = None, **more: Any) -> UUID:  # fmt: skip
    """Creates a deployment, or replaces it. `environment`: of the processes that workers start; `more`: as
    `create_deployment` takes it.

    Raises FewstepError for what Prefect refuses.
    """
    variables = {"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT), **(environment or {})}}
    try:
        return client.create_deployment(client.create_flow_from_name(flow), name, version=version, work_pool_name=pool,
                                        job_variables=variables, **more)
    except PrefectHTTPStatusError as error:
        raise FewstepError(f"Prefect refused the deployment: {redact(error.response.text[:500])}") from error
