"""Two hosts that serve to one Prefect server: a decision that waits anywhere is answered on its page or by any host."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from tasks.registry.aliases import Decision
from tasks.registry.gate import pending_approvals
from tasks.registry.model_registry import Registry
from tasks.storage.workspace import Workspace
from tests.flows.conftest import make_project
from tests.flows.orchestration.test_approval_flow import MODEL, RUN, register_two
from tests.flows.runs.test_two_hosts import Host
from tests.flows.scheduling.pool_team import until
from tests.mlflow_server import mlflow_server
from tests.prefect_server import prefect_server
from tests.s3_server import BUCKET

pytestmark = [pytest.mark.timeout(0), pytest.mark.slow]     # busy machines are slow, and every wait ends with a process


@pytest.fixture
def team(tmp_path):
    with prefect_server(tmp_path / "prefect") as server:
        yield server


@pytest.fixture
def hosts(tmp_path, s3_server, team, monkeypatch):
    """Two clones that share MLflow, store and Prefect, with two versions registered, the first champion."""
    (tmp_path / "mlflow").mkdir()
    with mlflow_server(tmp_path / "mlflow", f"sqlite:///{tmp_path}/mlflow/server.db") as url:
        shared = {**s3_server.environment, "MLFLOW_TRACKING_URI": url}
        for name, value in shared.items():
            monkeypatch.setenv(name, value)
        make_project(tmp_path / "one")
        shutil.copytree(tmp_path / "one", tmp_path / "two", symlinks=True)
        hosts = [Host(tmp_path / name) for name in ("one", "two")]
        for host in hosts:
            host.shared = shared
            (host.root / ".dvc" / "config.local").write_text(
                f"['remote \"store\"']\n    url = s3://{BUCKET}/team\n[core]\n    remote = store\n")
        register_two(Workspace(hosts[0].root), tmp_path)
        yield hosts


def test_a_decision_is_answered_on_the_teams_page_or_by_any_host(hosts, team):
    one, two = hosts
    registry = Registry(Workspace(two.root))
    for host in hosts:
        host.fewstep("schedule", "--name", "yearly", "--cron", "0 3 1 1 *")
    refused = one.fewstep("serve", "--server", team.api.removesuffix("/api"), code=2)
    assert "ending in /api" in refused.stderr
    serving = [host.start("serve", "--server", team.api) for host in hosts]

    def served() -> bool:
        names = list(team.deployments())
        return len(names) == 3 and all(any(f"yearly on {host.root.name}" in name for name in names) for host in hosts)

    def propose(number: int, former: int) -> tuple[str, str]:
        """Asks on host two; the suspended run."""
        decision = Decision(MODEL, number, "champion", "gated", True, (), former)
        identity = pending_approvals.store(registry, decision, 1.0, who="bob").pending
        command = [sys.executable, "-c", RUN, "ask", identity, f"{MODEL}/{number}"]
        asked = subprocess.run(command, cwd=two.root, check=True, capture_output=True, text=True,
                               env=two.environment(PREFECT_API_URL=team.api))
        run = asked.stdout.strip()
        until(lambda: state(run) == "Suspended", *serving)
        return identity, run

    def state(run: str) -> str:
        return team.ask(f"flow_runs/{run}")["state"]["name"]

    try:
        until(served, *serving)
        _, run = propose(2, 1)
        team.ask(f"flow_runs/{run}/resume", {"run_input": {"approve": True, "who": "eve", "why": "looked at the grid"}})
        until(lambda: state(run) == "Completed", *serving)
        assert registry.aliases(MODEL)["champion"] == 2
        identity, run = propose(1, 2)
        assert identity[:8] in one.fewstep("approve").stdout
        assert one.json("reject", identity[:8], "--why", "sevens", PREFECT_API_URL=team.api)["event"] == "rejected"
        assert state(run) == "Cancelled"
        late = two.fewstep("approve", identity[:8], code=1).stderr
        assert "is closed: rejected by" in late
        told = [host.json("history", "toy") for host in hosts]
        assert told[0] == told[1] and [(entry["event"], entry["who"]) for entry in told[0] if entry["event"] != "intent"
                                       ][1:3] == [("pending", "bob"), ("promoted", "eve")]
        assert "fewstep-toy/2 → champion (was 1), eve  looked at the grid" in one.fewstep("history", "toy").stdout
        assert two.json("rollback", "toy")["champion"] == 1
        assert one.json("history", "toy")[-1]["event"] == "rolled back" and served()
    finally:
        for process in serving:
            process.send_signal(signal.SIGTERM)
        ended = [process.communicate() for process in serving]
    assert [process.returncode for process in serving] == [0, 0], ended
    assert all("Traceback" not in out + err for out, err in ended) and team.ask("health")
    assert not any(str(host.root) in json.dumps(item) for item in team.deployments().values() for host in hosts)


def test_a_decision_outlives_the_process_that_serves_its_page(hosts, team, seen):
    one, two = hosts
    registry, decision = Registry(Workspace(two.root)), Decision(MODEL, 2, "champion", "gated", True, (), 1)
    first = one.start("serve", "--server", team.api)
    until(lambda: any(name.startswith("approval") for name in team.deployments()), first)
    identity = pending_approvals.store(registry, decision, 1.0, who="bob").pending
    asked = subprocess.run([sys.executable, "-c", RUN, "ask", identity, f"{MODEL}/2"], cwd=two.root, check=True,
                           capture_output=True, text=True, env=two.environment(PREFECT_API_URL=team.api)).stdout.strip()

    def state() -> str:
        return team.ask(f"flow_runs/{asked}")["state"]["name"]

    until(lambda: state() == "Suspended", first)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert identity[:8] in two.fewstep("approve").stdout
    second = two.start("serve", "--server", team.api)
    try:
        team.ask(f"flow_runs/{asked}/resume", {"run_input": {"approve": True, "who": "eve", "why": ""}})
        until(lambda: state() == "Completed", second)
    finally:
        second.send_signal(signal.SIGTERM)
        second.communicate()
    assert registry.aliases(MODEL) == {"candidate": 2, "champion": 2, "previous": 1}
    closed = [entry for entry in one.json("history", "toy") if entry.get("closes") == identity]
    assert [(entry["event"], entry["who"]) for entry in closed] == [("intent", "eve"), ("promoted", "eve")]
    seen(fault="`fewstep serve` killed (SIGKILL) while a decision waits on its page: Suspended", code=None,
         resume="another host's `fewstep serve` carries the answer out: Completed; `fewstep approve` works meanwhile")
