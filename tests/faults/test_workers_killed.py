"""A work pool whose worker is killed in each of the states that Prefect has for a run: who goes on, and with what."""

from __future__ import annotations

from collections import Counter

import pytest
from mlflow.tracking import MlflowClient

from tests.flows.scheduling.pool_team import FINAL, PoolTeam, Worker, pool_team, until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(0)]
LINE = "a work pool's worker killed (SIGKILL) while its run is"


class Case:
    """One run of the pool: its worker, and what came of it."""

    def __init__(self, team: PoolTeam, seed: int):
        self.team, self.seed, self.before = team, seed, len(team.journal())
        self.former = {task["id"] for task in self._tasks()}
        team.control()
        self.worker = team.worker(f"first-{seed}")
        until(lambda: self._online(self.worker), self.worker.process)

    def trigger(self) -> None:
        self.run = self.team.trigger(seed=self.seed)

    def kill(self) -> None:
        self.worker.kill()

    @property
    def state(self) -> str:
        return self.team.state(self.run)

    def begun(self) -> list[tuple[str, str]]:
        """Stage and name of the units that were begun, in order."""
        return [(stage, unit) for stage, unit, _ in self.team.journal()[self.before:]]

    def works_on(self, stage: str) -> bool:
        return any(name == stage for name, _ in self.begun())

    def task_states(self) -> set[str]:
        """States of the distillation, as a task of the run that the worker's process makes."""
        return {task["state"]["name"] for task in self._tasks() if task["id"] not in self.former}

    def reconciled(self, line: str, silence: float | None = None) -> None:
        """`fewstep reconcile`, until it says this of the run: leases and workers count as lost after a while only.

        `silence`: seconds instead of those after which a run counts as lost that its worker never handed over.
        """
        settle = self.team.settle
        until(lambda: line in (settle(silence) if silence else str(self.team.person.json("reconcile")["prefect"])))

    def ends(self) -> Worker:
        """The next worker, when it has brought the run to its end."""
        worker = self.team.worker(f"next-{self.seed}")
        until(lambda: self.state in FINAL, worker.process)
        assert self.state == "Completed"
        return worker

    def check(self, again: set[str]) -> None:
        """Nothing was lost and nothing is there twice.

        `again`: stages a unit of which was under way when the worker died.
        """
        (record,) = (item for item in self.team.person.json("status", "--all")
                     if item["settings"]["seed"] == self.seed)
        assert record["state"] == "finished"
        twice = [unit for unit, times in Counter(self.begun()).items() if times > 1]
        assert {stage for stage, _ in twice} <= again and len(twice) <= len(again), twice
        client = MlflowClient(self.team.mlflow)
        runs = client.search_runs([item.experiment_id for item in client.search_experiments()])
        assert [run.info.status for run in runs if run.info.run_name == record["id"]] == ["FINISHED"]

    def _tasks(self) -> list[dict]:
        return self.team.server.ask("task_runs/filter", {"task_runs": {"name": {"any_": ["distill"]}}})

    def _online(self, worker: Worker) -> bool:
        found = self.team.server.ask("work_pools/gpus/workers/filter", {})
        return any(item["name"] == worker.name and item["status"] == "ONLINE" for item in found)


@pytest.fixture(scope="module")
def team(tmp_path_factory, s3_server):
    with pool_team(tmp_path_factory.mktemp("killed"), s3_server, "killed-workers") as team:
        team.schedule()
        yield team


def test_scheduled(team, seen):
    case = Case(team, 11)
    case.worker.stop()
    case.trigger()
    assert case.state == "Scheduled"
    case.kill()
    until(lambda: case.state == "Late")
    case.ends().end()
    case.check(set())
    seen(fault=f"{LINE} Scheduled, then Late", code=None, resume="the next worker begins it: Completed")


def test_pending(team, seen):
    case = Case(team, 12)
    case.trigger()
    while case.state in ("Scheduled", "Late"):
        assert case.worker.process.poll() is None
    case.kill()
    assert case.team.server.ask(f"flow_runs/{case.run}")["state"]["type"] == "PENDING" and not case.begun()
    case.reconciled("→ Resuming", silence=10)
    case.ends().end()
    case.check(set())
    seen(fault=f"{LINE} Pending (being submitted)", code=None,
         resume="`reconcile` gives it to the next worker: Completed")


def test_running(team, seen):
    case = Case(team, 13)
    team.control(distill={"seconds": 3600})
    case.trigger()
    until(lambda: case.works_on("distill"), case.worker.process)
    case.kill()
    assert case.state == "Running"
    team.control()
    case.reconciled("Running → Resuming")
    case.ends().end()
    case.check({"distill"})
    seen(fault=f"{LINE} Running", code=None,
         resume="`reconcile` gives it to the next worker: Completed, in the same run")


@pytest.mark.parametrize("state", ["AwaitingRetry", "Retrying"])
def test_a_task_is_tried_again(team, seen, state):
    case = Case(team, 14 + len(state))
    team.control(distill={"raise": "the network is away"})
    case.trigger()
    while "AwaitingRetry" not in case.task_states():
        assert case.worker.process.poll() is None
    if state == "Retrying":
        team.control(distill={"seconds": 3600})
        while "Retrying" not in case.task_states():
            assert case.worker.process.poll() is None
    case.kill()
    assert state in case.task_states() and case.state == "Running"
    team.control()
    case.reconciled("Running → Resuming")
    case.ends().end()
    case.check({"distill"})
    seen(fault=f"{LINE} Running, a task of it {state}", code=None,
         resume="`reconcile` gives it to the next worker: Completed, in the same run")


def test_cancelling(team, seen):
    case = Case(team, 15)
    team.control(distill={"seconds": 3600})
    case.trigger()
    until(lambda: case.works_on("distill"), case.worker.process)
    case.worker.stop()
    team.server.ask(f"flow_runs/{case.run}/set_state", {"state": {"type": "CANCELLING"}})
    case.kill()
    assert case.state == "Cancelling"
    team.control()
    case.reconciled("Cancelling → Cancelled")
    run = next(item["id"] for item in team.person.json("status", "--all") if item["settings"]["seed"] == 15)
    assert team.person.json("resume", run)["state"] == "finished"
    case.check({"distill"})
    other = Case(team, 16)
    other.trigger()
    until(lambda: other.state in FINAL, other.worker.process)
    assert other.state == "Completed" and case.state == "Cancelled", "no worker takes up what a person cancelled"
    other.worker.end()
    seen(fault=f"{LINE} Cancelling", code=None,
         resume="`reconcile`: Cancelled, and no worker takes it; `fewstep resume` of the run: 0")
