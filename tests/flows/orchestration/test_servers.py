"""The servers that Prefect and MLflow ship start under the versions that constraints.txt pins, and do their work.

Package metadata does not catch what breaks here: fastapi from 0.151 on (Prefect's server refuses its own client), and
SQLAlchemy from 2.1 on (Prefect's scheduler cannot write the runs of a schedule).
"""

import datetime
import os

import pytest

from flows.orchestration.child_server import bind
from flows.orchestration.prefect_api import prefect_environment, start_prefect
from tasks.storage.workspace import Workspace
from tests.own_server import ask


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Prefect's server as `fewstep run` starts it, without its background services."""
    folder = tmp_path_factory.mktemp("prefect")
    child = start_prefect(Workspace(folder), folder / "server.log")
    try:
        child.wait("/api/health", "Prefect's server")
        yield child
    finally:
        child.stop()


def test_servers_that_start_at_once_on_a_fresh_database_all_start(tmp_path):
    children = [start_prefect(Workspace(tmp_path), tmp_path / f"{number}.log") for number in range(4)]
    try:
        for child in children:
            child.wait("/api/health", "Prefect's server")
            assert ask(child.url + "/api/flows/filter", child.token, {}) == (200, [])
    finally:
        for child in children:
            child.stop()


def test_prefects_server_accepts_its_clients_explicit_nulls(server):
    nulls = {"flows": None, "flow_runs": None, "task_runs": None, "deployments": None, "work_pools": None,
             "sort": "NAME_ASC", "limit": 5, "offset": 0}
    assert ask(server.url + "/api/flows/filter", server.token, nulls) == (200, [])


def test_prefects_scheduler_makes_the_runs_of_a_schedule(server):
    status, flow = ask(server.url + "/api/flows/", server.token, {"name": "f"})
    assert status == 201
    status, deployment = ask(server.url + "/api/deployments/", server.token, {
        "name": "d", "flow_id": flow["id"],
        "schedules": [{"schedule": {"cron": "0 2 * * *", "timezone": "UTC"}, "active": True}]})
    assert status == 201
    end = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3)).isoformat()
    status, answer = ask(f"{server.url}/api/deployments/{deployment['id']}/schedule", server.token, {"end_time": end})
    assert status == 200, answer
    status, runs = ask(server.url + "/api/flow_runs/filter", server.token, {})
    assert status == 200 and len(runs) >= 2 and {run["state_type"] for run in runs} == {"SCHEDULED"}


def test_mlflows_server_app_answers(tmp_path, monkeypatch):
    import subprocess
    import sys

    code = ("import os, sys\n"
            "os.environ.update(_MLFLOW_SERVER_FILE_STORE=sys.argv[1], _MLFLOW_SERVER_ARTIFACT_ROOT=sys.argv[2])\n"
            "from starlette.testclient import TestClient\n"
            "from mlflow.server.fastapi_app import app\n"
            "client = TestClient(app, base_url='http://localhost')\n"
            "assert client.get('/health').status_code == 200\n"
            "answer = client.post('/api/2.0/mlflow/experiments/search', json={'max_results': 5})\n"
            "print(answer.status_code, [item['name'] for item in answer.json()['experiments']])\n")
    done = subprocess.run([sys.executable, "-c", code, f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path)],
                          capture_output=True, text=True,
                          env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})
    assert done.stdout.strip().endswith("200 ['Default']"), done.stdout + done.stderr


def test_a_server_that_cannot_start_says_why(tmp_path, monkeypatch):
    from fewstep.util.errors import FewstepError

    with bind("127.0.0.1", 0) as taken, pytest.raises(FewstepError, match="cannot listen on 127.0.0.1"):
        start_prefect(Workspace(tmp_path), tmp_path / "log", port=taken.getsockname()[1])
    child = start_prefect(Workspace(tmp_path), tmp_path / "log",
                          addition={"PREFECT_API_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:////no/such/folder/x.db"})
    try:
        with pytest.raises(FewstepError, match="unable to open database file"):
            child.wait("/api/health", "Prefect's server")
    finally:
        child.stop()


def test_prefect_is_configured_by_the_checkout_not_by_the_user(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    values = prefect_environment(Workspace(tmp_path))
    assert values["PREFECT_HOME"].startswith(str(tmp_path)) and values["DO_NOT_TRACK"] == "true"
