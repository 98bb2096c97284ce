"""MLflow's server as an ASGI application, for who puts something before it (flows.orchestration.server_process)."""

from __future__ import annotations

import os

from starlette.types import ASGIApp

import tasks.tracking.process_env  # noqa: F401  (switches telemetry off before mlflow is imported)


def server_application(store: str, artifacts: str) -> ASGIApp:
    """MLflow's application on the database `store`; new experiments keep their files under the address `artifacts`.

    MLflow reads what `mlflow server` is told from the environment when it is imported: once in a process. It checks
    neither hosts nor origins (its own check knows localhost alone) and starts no jobs, which would be processes.
    """
    from mlflow.server.constants import ARTIFACT_ROOT_ENV_VAR, BACKEND_STORE_URI_ENV_VAR

    os.environ[BACKEND_STORE_URI_ENV_VAR], os.environ[ARTIFACT_ROOT_ENV_VAR] = store, artifacts
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    os.environ["MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE"] = "true"
    from mlflow.server.fastapi_app import app

    return app
