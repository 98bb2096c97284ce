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

from tests.flows.scheduling.pool_team import FINAL, NAME, POOL, pool_team, until

pytestmark = [pytest.mark.timeout(0), pytest.mark.slow]     # busy machines are slow, and every wait ends with a process
SHORT_SILENCE = """
from prefect.client.orchestration import get_client
from flows.orchestration.silent_runs import ACTIONS, ensure_automations
with get_client(sync_client=True) as client:
    for name in ACTIONS:
        for automation in client.read_automations_by_name(name):
            client.delete_automation(automation.id)
ensure_automations(silence=10)
"""


@pytest.fixture(scope="module")
def team(tmp_path_factory, s3_server):
    with pool_team(tmp_path_factory.mktemp("team"), s3_server, "pool") as team:
        yield team


def test_the_first_run_of_a_profile_makes_the_automations_for_silent_runs(team):
    assert team.person.json("run")["state"] == "finished"
    names = sorted(item["name"] for item in team.server.ask("automations/filter", {}))
    assert names == ["fewstep: end runs that were cancelled", "fewstep: let the next worker continue silent runs",
                     "fewstep: mark silent runs as crashed"]


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
    until(lambda: any(line[0] == "distill" for line in team.journal()[before:]), first.process)
    until(lambda: "Already running" in map(team.state, runs), first.process)
    (run,) = (run for run in runs if team.state(run) != "Already running")
    assert team.state(run) == "Running"
    first.kill()
    team.control(evaluate={"seconds": 3600})
    while not any("Running → Resuming" in line for line in team.person.json("reconcile")["prefect"]):
        time.sleep(1)       # the lease has not lapsed yet
    second = team.worker("second")
    until(lambda: any(line[0] == "evaluate" for line in team.journal()[before:]), second.process)
    (pid,) = {int(line[2]) for line in team.journal()[before:] if line[0] == "evaluate"}
    team.control()
    psutil.Process(pid).parent().terminate()        # the flow run's process, as that of a pod which is evicted
    until(lambda: team.state(run) in FINAL, second.process)
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
    second.end()


def test_what_a_worker_took_and_never_began_is_given_to_the_next(team):
    run = team.trigger(seed=6)
    taken = {"state": {"type": "PENDING", "name": "Submitting"}, "force": True}
    team.server.ask(f"flow_runs/{run}/set_state", taken)
    assert team.person.json("reconcile")["prefect"] == [], "it may be on its way"
    assert "Submitting → Resuming" in team.settle() and team.state(run) == "Resuming"


@pytest.fixture
def silent(team):
    """Flow runs that were heard of once; silence counts soon. One of them was told to end before."""
    runs = {"cancelled": team.trigger(seed=7), "silent": team.trigger(seed=8)}
    team.python(SHORT_SILENCE)
    for name, run in runs.items():
        for state in ("PENDING", "RUNNING"):
            team.server.ask(f"flow_runs/{run}/set_state", {"state": {"type": state}, "force": True})
        team.server.ask("events", [{
            "id": str(uuid.uuid4()), "occurred": datetime.now(UTC).isoformat(), "event": "prefect.flow-run.heartbeat",
            "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"}, "payload": {},
            "related": [{"prefect.resource.id": "prefect.tag.fewstep-pool", "prefect.resource.role": "tag"}]}])
        if name == "cancelled":
            team.server.ask(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    return runs


def test_the_server_itself_gives_a_silent_run_to_the_next_worker_and_ends_a_cancelled_one(team, silent):
    until(lambda: team.state(silent["silent"]) == "Resuming")
    until(lambda: team.state(silent["cancelled"]) == "Cancelled")
    states = team.server.ask(f"flow_run_states/?flow_run_id={silent['cancelled']}")
    assert "Resuming" not in [state["name"] for state in states]


def test_schedules_of_a_pool_are_listed_and_removed(team):
    listed = team.person.fewstep("schedule", "list").stdout
    assert f"pool {POOL}, commit {team.person.git('rev-parse', 'HEAD')[:10]}" in " ".join(listed.split())
    team.person.fewstep("schedule", "remove", NAME)
    assert NAME not in team.server.deployments()
