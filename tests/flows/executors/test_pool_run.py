"""A flow run of a pool whose unit has ended, in order or by an error, is told that no more come, and not cancelled."""

import json
from types import SimpleNamespace
from uuid import uuid4

import pytest

from fewstep.util.errors import StageFailed, to_json
from flows.executors.work_pool import PoolRun


class Server:
    """Of one flow run that goes on: its inputs, and no state that may be set."""

    def __init__(self, *events: dict):
        self.inputs = {f"event-{number}": json.dumps(event) for number, event in enumerate(events)}

    def read_flow_run(self, _run):
        return SimpleNamespace(state=SimpleNamespace(is_final=lambda: False, is_running=lambda: True))

    def create_flow_run_input(self, _run, key, value):
        self.inputs[key] = value

    def filter_flow_run_input(self, _run, prefix, _limit, _but):
        return [SimpleNamespace(key=key, value=value) for key, value in self.inputs.items() if key.startswith(prefix)]

    def delete_flow_run_input(self, _run, key):
        del self.inputs[key]


@pytest.mark.parametrize("end", [{"done": True}, {"error": to_json(StageFailed("no room"))}])
def test_who_waits_for_a_unit_is_told_that_there_are_no_more(end):
    heard, server = [], Server({"advance": 3}, end)
    run = PoolRun(server, uuid4())
    try:
        run.do(SimpleNamespace(hear=heard.append), SimpleNamespace(model_dump_json=lambda: "{}"))
    except StageFailed as error:
        assert "no room" in str(error) and "error" in end
    run.end()
    assert heard == [{"advance": 3}] and list(server.inputs.values()) == ["{}", ""]
