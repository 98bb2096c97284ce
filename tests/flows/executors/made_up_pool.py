"""A work pool with room for some flow runs at once, in the place of a Prefect server and its workers.

A flow run that has room does what it is told as soon as the run looks at what it tells, and ends when it is told to.
"""

from __future__ import annotations

import contextlib
import json
from types import SimpleNamespace
from uuid import UUID, uuid4

from prefect.client.schemas.objects import WorkerStatus

from flows.executors import work_pool
from tasks.storage.cloneable import Cloneable


class Pool:
    """limit: of flow runs at once. workers: that are online. ended: flow runs, in the order of their ends."""

    def __init__(self, limit: int, workers: int = 1):
        self.limit, self.workers, self.ended = limit, workers, []
        self.inputs: dict[UUID, dict[str, str]] = {}

    @property
    def begun(self) -> list[UUID]:
        return [run for run in self.inputs if run not in self.ended][: self.limit if self.workers else 0]

    def create_flow_run_from_deployment(self, _deployment, tags):
        run = uuid4()
        self.inputs[run] = {}
        return SimpleNamespace(id=run)

    def read_flow_run(self, run):
        ended, begun = run in self.ended, run in self.begun
        state = SimpleNamespace(is_final=lambda: ended, is_running=lambda: begun, name="Completed", message="told to")
        return SimpleNamespace(state=state, work_pool_name="gpus")

    def set_flow_run_state(self, run, _state, force):
        self.ended.append(run)

    def create_flow_run_input(self, run, key, value):
        if value:
            self.inputs[run][key] = value
        else:
            self.ended.append(run)

    def filter_flow_run_input(self, run, prefix, _limit, _but):
        if prefix == "event-" and run in self.begun:
            self._work(run)
        return [SimpleNamespace(key=key, value=value) for key, value in self.inputs[run].items()
                if key.startswith(prefix)]  # fmt: skip

    def delete_flow_run_input(self, run, key):
        del self.inputs[run][key]

    def _work(self, run: UUID) -> None:
        for key in [key for key in self.inputs[run] if key.startswith("unit-")]:
            number = key.rpartition("-")[2]
            del self.inputs[run][key]
            for name, event in (("a", {"begun": "a worker"}), ("b", {"done": True})):
                self.inputs[run][f"event-{number}{name}"] = json.dumps(event)

    def read_work_pool(self, _name):
        return SimpleNamespace(is_paused=False, concurrency_limit=self.limit)

    def read_workers_for_work_pool(self, _name):
        return [SimpleNamespace(status=WorkerStatus.ONLINE)] * self.workers


def put_in_place(pool: Pool, monkeypatch) -> None:
    """Of the server that engines talk to."""
    monkeypatch.setattr(work_pool, "get_client", lambda sync_client: contextlib.nullcontext(pool))
    monkeypatch.setattr(work_pool, "ensure_automations", lambda: None)
    monkeypatch.setattr(work_pool, "created", lambda *_, **__: uuid4())
    monkeypatch.setattr("flows.executors.pool_run.PAUSE", 0.01)
    monkeypatch.setattr("flows.executors.engines.prefect_environment", lambda _workspace: {})
    monkeypatch.setattr("flows.executors.engines.adopt", lambda _environment: None)
    code = Cloneable("https://host/code.git", 40 * "a")
    monkeypatch.setattr("flows.executors.engines.cloneable_code", lambda _workspace: code)
