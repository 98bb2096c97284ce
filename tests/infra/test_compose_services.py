"""The compose stack without Docker: every service as a process, and a scheduled run that goes through all of them."""

from __future__ import annotations

import base64
import json
import subprocess
import time
import urllib.error
import urllib.request

import boto3
import psycopg2
import pytest
from mlflow.tracking import MlflowClient

from tests.flows.conftest import make_project
from tests.flows.runs.test_two_hosts import Host
from tests.git_daemon import git_daemon
from tests.infra.compose_processes import Services
from tests.infra.rendering import write
from tests.otlp_receiver import otlp_receiver
from tests.postgres import Postgres, binary

pytestmark = [pytest.mark.timeout(0), pytest.mark.slow]     # busy machines are slow, and every wait ends with a process
FINAL = ("COMPLETED", "FAILED", "CRASHED")
SECRETS = {"POSTGRES_PASSWORD": "6f1e0bcanarypg", "PREFECT_API_AUTH_STRING": "team:6f1e0b-canary",
           "AWS_ACCESS_KEY_ID": "6f1e0bkey", "AWS_SECRET_ACCESS_KEY": "6f1e0b-canary-s3"}  # fmt: skip


@pytest.fixture
def services(tmp_path):
    if binary("initdb") is None:
        pytest.skip("no PostgreSQL here: `make postgres` installs it")
    postgres = Postgres()
    try:
        file = write("compose", tmp_path / "stack", worker={"gpus": 0}, region="us-east-1") / "compose.yaml"
        with Services(file, tmp_path, postgres, SECRETS) as started:
            yield started
    finally:
        postgres.close()


def ask(services: Services, path: str, body=None):
    login = base64.b64encode(SECRETS["PREFECT_API_AUTH_STRING"].encode()).decode()
    request = urllib.request.Request(f"{services.address('prefect', '4200')}/api/{path}",
                                     None if body is None else json.dumps(body).encode(),
                                     {"Content-Type": "application/json", "Authorization": f"Basic {login}"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read() or b"null")


def experiments(services: Services, **headers: str) -> int:
    """Status of MLflow's answer to a search for experiments."""
    request = urllib.request.Request(f"{services.address('mlflow', '5000')}/api/2.0/mlflow/experiments/search",
                                     b'{"max_results": 1}', {"Content-Type": "application/json", **headers})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return answer.status


def test_a_scheduled_run_goes_through_every_service(tmp_path, services):
    served = tmp_path / "served"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(served / "project.git")], check=True)
    with git_daemon(served) as git, otlp_receiver() as collector:
        person = Host(make_project(tmp_path / "person").root)
        person.shared = {name: value for name, value in services.environment.items()
                         if name.startswith(("PREFECT_API", "MLFLOW", "AWS_"))}  # fmt: skip
        worker = services.start("worker", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, PYTHONPATH="")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{services.address('prefect', '4200')}/api/flow_runs/count", b"{}")
        subprocess.run(["dvc", "remote", "add", "-d", "store", "s3://fewstep/store"], cwd=person.root, check=True,
                       env=services.environment)
        params = (person.root / "params.yaml").read_text()
        (person.root / "params.yaml").write_text(params.replace("profile: local", "profile: server"))
        person.git("commit", "-q", "-a", "-m", "a store for all")
        person.git("remote", "add", "origin", f"{git}/project.git")
        person.git("push", "-q", "origin", "main")
        services.wait_until_healthy("worker")
        while not ask(services, "work_pools/filter", {}):
            assert worker.poll() is None, services.log("worker")
            time.sleep(0.5)     # the worker makes its pool
        person.fewstep("schedule", "--name", "nightly", "--cron", "0 3 1 1 *", "--pool", "gpus")
        (deployment,) = ask(services, "deployments/filter", {})
        run = ask(services, f"deployments/{deployment['id']}/create_flow_run", {"state": {"type": "SCHEDULED"}})["id"]
        while (state := ask(services, f"flow_runs/{run}")["state"])["type"] not in FINAL:
            assert worker.poll() is None, services.log("worker")
            time.sleep(0.5)
        assert state["type"] == "COMPLETED", services.log("worker")
        assert "finished" in [of["state"] for of, _ in collector.last("fewstep.run.state")]

    (record,) = (item for item in person.json("status", "--all") if item["origin"] == "nightly")
    assert record["state"] == "finished"
    said = [json.loads(line) for line in (tmp_path / "worker/log").read_text().splitlines()
            if line.startswith('{"time"')]  # fmt: skip
    assert {line.get("run") for line in said if line.get("event") == "finished"} == {record["id"]}
    client = boto3.client("s3", endpoint_url=services.address("s3", "8333"), region_name="us-east-1",
                          aws_access_key_id=SECRETS["AWS_ACCESS_KEY_ID"],
                          aws_secret_access_key=SECRETS["AWS_SECRET_ACCESS_KEY"])  # fmt: skip
    MlflowClient(services.address("mlflow", "5000")).log_text(record["mlflow"]["run"], "kept", "note.txt")
    names = [item["Key"] for item in client.list_objects_v2(Bucket="fewstep")["Contents"]]
    assert any(name.startswith("store/") for name in names) and any(name.startswith("mlflow/") for name in names)
    tables = psycopg2.connect(services.postgres.url("mlflow").replace("c%40nary-6f1e0b%2Fpg", "6f1e0bcanarypg"))
    with tables.cursor() as cursor:
        cursor.execute("SELECT status FROM runs")
        assert {status for (status,) in cursor.fetchall()} == {"FINISHED"}
    tables.close()
    logs = "".join(path.read_text(errors="replace") for path in tmp_path.glob("*/log"))
    assert not [secret for secret in SECRETS.values() if secret in logs and secret != SECRETS["AWS_ACCESS_KEY_ID"]]

    # MLflow answers under the names that it is given alone: a page of another site would come by another
    assert experiments(services) == 200
    with pytest.raises(urllib.error.HTTPError, match="403"):
        experiments(services, Host="evil.example")
