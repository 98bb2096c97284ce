"""The order of stages side by side: each after those it reads, nothing that was begun is thrown away."""

import threading

import pytest

from flows.orchestration.side_by_side import SideBySide
from flows.runs.signals import Interrupted
from tasks.engine.graph import IN_DVC

READS = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}


class Stages:
    """Stages that note when they begin and end; `wait`: what must have begun before a stage goes on."""

    def __init__(self, wait=None, fail=()):
        self.wait, self.fail, self.log = wait or {}, fail, []
        self.began = {name: threading.Event() for name in READS}
        self.threads = {}
        self.stopped = threading.Event()

    def do(self, name):
        self.log.append(f"{name} begins")
        self.threads[name] = threading.current_thread()
        self.began[name].set()
        for other in self.wait.get(name, ()):
            assert self.began[other].wait(20)
        if name in self.fail:
            raise ValueError(name)
        self.log.append(f"{name} ends")
        return name.upper()

    def stop(self):
        self.stopped.set()


def test_stages_that_do_not_read_each_other_are_done_at_once_and_all_after_what_they_read():
    stages = Stages(wait={"b": ["c"], "c": ["b"]})
    assert SideBySide(READS).run(stages.do, stages.do, stages.stop) == {name: name.upper() for name in READS}
    assert stages.threads["b"] is not stages.threads["c"]
    assert stages.log[:2] == ["a begins", "a ends"] and stages.log[-2:] == ["d begins", "d ends"]
    assert stages.threads["a"] is stages.threads["d"] is threading.current_thread()    # nothing is beside them
    assert not stages.stopped.is_set()


@pytest.mark.parametrize("failing", ["b", "c"])
def test_a_failing_stage_lets_the_other_one_finish_and_nothing_else_begins(failing):
    stages = Stages(wait={"b": ["c"], "c": ["b"]}, fail=[failing])
    with pytest.raises(ValueError, match=failing):
        SideBySide(READS).run(stages.do, stages.do, stages.stop)
    other = "c" if failing == "b" else "b"
    assert f"{other} ends" in stages.log and "d begins" not in stages.log and not stages.stopped.is_set()


def test_a_signal_stops_the_other_stage_too():
    stages = Stages()

    def here(name):
        stages.do(name)
        if name == "b":
            assert stages.began["c"].wait(20)
            raise Interrupted("SIGTERM")
        return name

    def beside(name):
        stages.do(name)
        assert stages.stopped.wait(20)
        raise ValueError("it was stopped")

    with pytest.raises(Interrupted):
        SideBySide(READS).run(here, beside, stages.stop)
    assert "d begins" not in stages.log


def test_the_pipeline_has_stages_that_go_side_by_side():
    at_once, under_way = set(), set()
    lock, met = threading.Lock(), threading.Barrier(2)

    def do(name):
        with lock:
            under_way.add(name)
        if name in ("distill", "baselines"):
            met.wait(20)    # both are there
            with lock:
                at_once.add(frozenset(under_way))
            met.wait(20)
        with lock:
            under_way.discard(name)
        return name

    SideBySide({stage.name: stage.inputs for stage in IN_DVC}).run(do, do, lambda: None)
    assert at_once == {frozenset({"distill", "baselines"})}
