"""What a unit's process logs is logged by the run, whatever carries it."""

import json
import logging
import sys
import threading
import warnings
from types import SimpleNamespace

import pytest

from fewstep.util.errors import StageFailed
from flows.executors.engine import heard
from flows.executors.processes import UnitProcess
from tasks.engine.unit_logs import logs_told
from tasks.engine.unit_work import UnitWork
from tasks.unit import done


class Loud:
    """In the place of `Units`: says much and fails."""

    def do(self, _message, tell):
        logging.getLogger("diffusers.loaders").warning("%d keys are missing", 3)
        logging.getLogger("diffusers").info("is not told")
        warnings.warn("an odd shape", stacklevel=1)
        tell({"advance": 2})
        raise StageFailed("no room")


def carried(event: dict) -> dict:
    """As a pipe or a server carries it."""
    return json.loads(json.dumps(event))


@pytest.mark.parametrize("propagates", [True, False])
def test_warnings_of_a_units_process_are_those_of_the_run(propagates, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", propagates)    # not once it is imported
    events, counted = [], []
    done(Loud(), SimpleNamespace(), events.append)
    kept = [event for event in events if "log" in event]
    assert [event["log"]["logger"] for event in kept] == ["diffusers.loaders", "py.warnings"]
    assert "advance" in events[2] and "error" in events[3]
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)      # for caplog
    work = UnitWork(None, SimpleNamespace(advance=counted.append))
    caplog.clear()
    for event in map(carried, events[:3]):
        assert not heard(work, event)
    logged = {(record.name, record.levelno): record.getMessage() for record in caplog.records}
    assert logged.keys() == {("diffusers.loaders", logging.WARNING), ("py.warnings", logging.WARNING)}
    assert logged["diffusers.loaders", logging.WARNING] == "3 keys are missing" and counted == [2]
    assert "an odd shape" in logged["py.warnings", logging.WARNING]
    with pytest.raises(StageFailed, match="no room"):
        heard(work, carried(events[3]))


def test_what_telling_logs_is_not_told_and_threads_tell_one_after_the_other():
    told, inside = [], threading.Lock()

    def tell(event: dict) -> None:
        assert inside.acquire(blocking=False), "two at once"
        logging.getLogger("httpx").warning("POST /inputs")
        told.append(event)
        inside.release()

    with logs_told(tell) as telling:
        threads = [threading.Thread(target=lambda: [logging.getLogger("a").error("x"), telling({"advance": 1})])
                   for _ in range(8)]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    logging.getLogger("a").error("afterwards")
    assert sum("advance" in event for event in told) == 8
    assert [event["log"] for event in told if "log" in event] == [{"level": logging.ERROR, "logger": "a",
                                                                   "message": "x"}] * 8  # fmt: skip


def test_a_process_that_logs_is_heard_through_its_pipe(caplog):
    code = ("import logging, json; from tasks.engine.unit_logs import logs_told\n"
            "input()\n"
            "with logs_told(lambda event: print(json.dumps(event), flush=True)) as tell:\n"
            "    logging.getLogger('torch').error('out of shape'); tell({'done': True})")
    process = UnitProcess([sys.executable, "-c", code], {})
    try:
        process.do(UnitWork(None, SimpleNamespace()), SimpleNamespace(model_dump_json=lambda: "{}"))
    finally:
        process.end()
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        ("torch", "ERROR", "out of shape")]  # fmt: skip
