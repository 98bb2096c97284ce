"""A work pool with room for one flow run: who did units makes room for a node of a training, and what waits is said."""

import threading
from types import SimpleNamespace

import pytest

from flows.executors.engines import Engines
from flows.orchestration.pools import how_it_stands
from tasks.config.schema import Settings
from tests.flows.executors.made_up_pool import Pool, put_in_place

ON_POOL = Settings(profile="server", compute={"on": "pool:gpus", "nodes": 2, "processes": 1, "units": {"most": 1}})


class Work:
    """Units of a stage, of which messages alone matter; what is warned of."""

    def __init__(self, apart: bool):
        self.stage = SimpleNamespace(name="trajectories", apart=apart, parallel=True)
        observer = SimpleNamespace(unit_finished=lambda *_: None)
        self.context = SimpleNamespace(workspace=None, observer=observer, advance=lambda _count: None)
        self.said, self.heard = [], threading.Event()

    def message(self, unit: str, *, far: bool):
        assert far
        return SimpleNamespace(unit=unit, model_dump_json=lambda: '{"unit": "a"}')

    def hear(self, event: dict) -> None:
        self.said.append(event["warning"])
        self.heard.set()


def test_flow_runs_that_did_units_make_room_for_a_node_of_a_training(monkeypatch):
    pool = Pool(limit=1)
    put_in_place(pool, monkeypatch)
    with Engines(ON_POOL) as engines:
        engines.of(Work(apart=True)).run(Work(apart=True), "record-1")
        (kept,) = pool.begun
        engines.of(Work(apart=False))       # the training, which asks for nodes
        (link,) = engines.nodes(None).start(2)
        assert pool.ended == [kept] and pool.begun == [link.run._flow_run]
        link.say({"share": {}})
        events = []
        while not link.done:
            events.append(link.heard())
        assert {"done": True} in events


def test_a_pool_without_a_worker_is_named_after_a_minute_and_the_unit_is_done_when_one_comes(monkeypatch):
    monkeypatch.setattr("flows.executors.long_waits.LONG_WAIT", 0.01)
    pool, work = Pool(limit=1, workers=0), Work(apart=True)
    put_in_place(pool, monkeypatch)
    with Engines(ON_POOL) as engines:
        doing = threading.Thread(target=engines.of(work).run, args=(work, "record-1"))
        doing.start()
        work.heard.wait()
        pool.workers = 1
        doing.join()
    (text,) = work.said
    assert text.endswith("work pool 'gpus' has no worker that is online: `prefect worker start --pool gpus`")


def test_a_node_that_a_training_waits_for_is_told_with_why(monkeypatch):
    pool = Pool(limit=1, workers=0)
    put_in_place(pool, monkeypatch)
    with Engines(ON_POOL) as engines:
        (link,) = engines.nodes(None).start(2)
        assert "node 2, by a worker of the pool (work pool 'gpus' has no worker that is online" in link.awaited


@pytest.mark.parametrize(("own", "words"), [("gpus", "does 1 flow runs at once, this run itself among them: "),
                                            ("others", "does 1 flow runs at once: `prefect work-pool set-")])
def test_a_run_that_takes_a_place_of_its_own_pool_is_named(own, words, monkeypatch):
    pool = Pool(limit=1)
    monkeypatch.setattr(pool, "read_flow_run", lambda _run: SimpleNamespace(work_pool_name=own))
    assert words in how_it_stands(pool, "gpus", "0" * 32)
