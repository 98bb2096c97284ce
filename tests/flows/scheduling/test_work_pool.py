"""A work pool whose workers are other hosts: with a git server, a bucket, MLflow and Prefect in common, and no path."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import uuid
from datetime import UTC, datetime

import psutil
import pytest

from tasks.storage.locks import die_with_parent
from tests.flows.conftest import make_project
from tests.flows.runs.test_two_hosts import Host
from tests.flows.scheduling.test_team_server import until
from tests.git_daemon import git_daemon
from tests.mlflow_server import mlflow_server
from tests.prefect_server import prefect_server
from tests.s3_server import BUCKET

pytestmark = [pytest.mark.timeout(0), pytest.mark.slow]     # busy machines are slow, and every wait ends with a process
POOL, NAME, FINAL = "gpus", "nightly", ("Completed", "Failed", "Crashed", "Cancelled")
SETTLE = """
from tasks.storage.workspace import Workspace
from tasks.tracking.run_records import RunStore
from flows.orchestration.flow_run_states import settle_flow_runs
workspace = Workspace.find()
print(settle_flow_runs(workspace, RunStore(workspace), silence=0))
"""
SHORT_SILENCE = """
from prefect.client.orchestration import get_client
from flows.orchestration.silent_runs import ACTIONS, ensure_automations
with get_client(sync_client=True) as client:
    for name in ACTIONS:
        for automation in client.read_automations_by_name(name):
            client.delete_automation(automation.id)
ensure_automations(silence=10)
"""


class Team:
    """A person's clone, and the servers that it shares with the pool's workers."""

    def __init__(self, folder, server, shared):
        self.folder, self.server, self.shared = folder, server, shared
        self.person = Host(make_project(folder / "person").root)
        self.person.shared = shared
        self.steering = folder / "steering"     # of the synthetic stages, wherever they run
        self.steering.mkdir()

    def control(self, **stages):
        (self.steering / "control.json").write_text(json.dumps(stages))

    def journal(self) -> list[list[str]]:
        path = self.steering / "journal.txt"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def python(self, code: str) -> str:
        done = subprocess.run([sys.executable, "-c", code], cwd=self.person.root, env=self.person.environment(),
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def worker(self, name: str) -> subprocess.Popen:
        """A worker on a host of its own: its folder holds nothing of the project, and neither does its PYTHONPATH."""
        home = self.folder / name
        home.mkdir()
        environment = self.person.environment(FEWSTEP_HOST=name, HOME=str(home), PREFECT_HOME=str(home / "prefect"))
        environment["PYTHONPATH"] = ""
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
        with open(home / "worker.log", "w") as log:
            return subprocess.Popen([*command, "--name", name], cwd=home, env=environment, stdout=log, stderr=log,
                                    start_new_session=True, preexec_fn=die_with_parent)  # fmt: skip

    def trigger(self, **overrides) -> str:
        deployment = self.server.deployments()[NAME]["id"]
        asked = {"state": {"type": "SCHEDULED"}, "parameters": {"overrides": overrides}}
        return self.server.ask(f"deployments/{deployment}/create_flow_run", asked)["id"]

    def state(self, run: str) -> str:
        return self.server.ask(f"flow_runs/{run}")["state"]["name"]


@pytest.fixture(scope="module")
def team(tmp_path_factory, s3_server):
    folder = tmp_path_factory.mktemp("team")
    served = folder / "served"
    for name in ("mlflow", "served/project.git"):
        (folder / name).mkdir(parents=True)
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(served / "project.git")], check=True)
    with mlflow_server(folder / "mlflow", f"sqlite:///{folder}/mlflow/server.db") as mlflow, \
            git_daemon(served) as git, prefect_server(folder / "prefect") as server:
        shared = {**s3_server.environment, "MLFLOW_TRACKING_URI": mlflow, "PREFECT_API_URL": server.api,
                  "SYNTHETIC_FOLDER": str(folder / "steering")}  # fmt: skip
        team = Team(folder, server, shared)
        root = team.person.root
        (root / ".dvc/config").write_text(f"['remote \"s\"']\n    url = s3://{BUCKET}/pool\n[core]\n    remote = s\n")
        params = (root / "params.yaml").read_text()
        (root / "params.yaml").write_text(params.replace("profile: local", "profile: server"))
        team.person.git("commit", "-q", "-a", "-m", "a store for all")
        team.person.git("remote", "add", "origin", f"{git}/project.git")
        yield team


def test_the_first_run_of_a_profile_makes_the_automations_for_silent_runs(team):
    assert team.person.json("run")["state"] == "finished"
    names = sorted(item["name"] for item in team.server.ask("automations/filter", {}))
    assert names == ["fewstep: let the next worker continue silent runs", "fewstep: mark silent runs as crashed"]


def test_a_deployment_carries_repository_commit_and_typed_settings(team):
    arguments = ["schedule", "--name", NAME, "--cron", "0 3 1 1 *", "--pool", POOL, "--set", "distill.images=2000"]
    assert "is on no remote" in team.person.fewstep(*arguments, code=2).stderr
    team.person.git("push", "-q", "origin", "main")
    assert f"work-pool create {POOL}" in team.person.fewstep(*arguments, code=4).stderr
    team.server.ask("work_pools/", {"name": POOL, "type": "process"})
    for _ in range(2):      # an existing one is replaced
        team.person.fewstep(*arguments)
    commit = team.person.git("rev-parse", "HEAD").strip()
    made = team.server.deployments()[NAME]
    assert made["parameters"] == {"name": NAME, "settings": {"distill": {"images": 2000}}}
    assert made["version"] == commit and len(made["schedules"]) == 1 and str(team.folder) not in json.dumps(made)
    for wrong in ({"seed": "five"}, {"distill": {"imagess": 1}}, {"sead": 1}):
        with pytest.raises(urllib.error.HTTPError, match="4(09|22)"):
            team.trigger(**wrong)
    done = subprocess.run([sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--name", "pipeline", "--pool",
                           POOL], cwd=team.person.root, env=team.person.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    theirs = team.server.deployments()["pipeline"]
    for field in ("entrypoint", "pull_steps", "tags", "job_variables", "parameter_openapi_schema", "version",
                  "enforce_parameter_schema", "work_pool_name"):
        assert theirs[field] == made[field], field


def test_two_triggers_make_one_run_and_a_dead_workers_run_is_continued_by_the_next(team):
    team.control(distill={"seconds": 3600})
    before, first = len(team.journal()), team.worker("first")
    runs = [team.trigger(seed=5) for _ in range(2)]
    until(lambda: any(line[0] == "distill" for line in team.journal()[before:]), first)
    until(lambda: "Already running" in map(team.state, runs), first)
    (run,) = (run for run in runs if team.state(run) != "Already running")
    assert team.state(run) == "Running"
    for process in [*psutil.Process(first.pid).children(recursive=True), first]:   # a host without power
        process.kill()
    first.wait()
    team.control(evaluate={"seconds": 3600})
    while not any("Running → Resuming" in line for line in team.person.json("reconcile")["prefect"]):
        time.sleep(1)       # the lease has not lapsed yet
    second = team.worker("second")
    until(lambda: any(line[0] == "evaluate" for line in team.journal()[before:]), second)
    (pid,) = {int(line[2]) for line in team.journal()[before:] if line[0] == "evaluate"}
    team.control()
    psutil.Process(pid).parent().terminate()        # the flow run's process, as that of a pod which is evicted
    until(lambda: team.state(run) in FINAL, second)
    states = team.server.ask(f"flow_run_states/?flow_run_id={run}")
    assert [state["message"] for state in states if state["name"] == "Resuming"] == [
        "its worker is gone, the next one continues it", "its worker was told to stop, the next one continues it"]
    assert states[-1]["name"] == "Completed", states[-1]
    (record,) = (item for item in team.person.json("status", "--all") if item["origin"] == NAME)
    assert record["state"] == "finished" and record["settings"]["seed"] == 5
    assert record["settings"]["distill"]["images"] == 2000 and record["isolated"]
    assert [attempt["host"] for attempt in record["attempts"]] == ["first", "second", "second"]
    made = [line[0] for line in team.journal()[before:]]
    assert made.count("teacher") == 3, "made by the first, restored by the second"
    assert sorted(map(team.state, runs)) == ["Already running", "Completed"]
    second.terminate()
    second.wait()


def test_what_a_worker_took_and_never_began_is_given_to_the_next(team):
    run = team.trigger(seed=6)
    taken = {"state": {"type": "PENDING", "name": "Submitting"}, "force": True}
    team.server.ask(f"flow_runs/{run}/set_state", taken)
    assert team.person.json("reconcile")["prefect"] == [], "it may be on its way"
    assert "Submitting → Resuming" in team.python(SETTLE) and team.state(run) == "Resuming"


def test_the_server_itself_gives_a_silent_run_to_the_next_worker(team):
    run = team.trigger(seed=7)
    for state in ("PENDING", "RUNNING"):
        team.server.ask(f"flow_runs/{run}/set_state", {"state": {"type": state}, "force": True})
    team.python(SHORT_SILENCE)
    heartbeat = {"id": str(uuid.uuid4()), "occurred": datetime.now(UTC).isoformat(),
                 "event": "prefect.flow-run.heartbeat", "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
                 "related": [{"prefect.resource.id": "prefect.tag.fewstep-pool", "prefect.resource.role": "tag"}],
                 "payload": {}}  # fmt: skip
    team.server.ask("events", [heartbeat])
    until(lambda: team.state(run) == "Resuming")
    listed = team.person.fewstep("schedule", "list").stdout
    assert f"pool {POOL}, commit {team.person.git('rev-parse', 'HEAD')[:10]}" in " ".join(listed.split())
    team.person.fewstep("schedule", "remove", NAME)
    assert NAME not in team.server.deployments()
