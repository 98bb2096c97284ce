"""What a stage beside another one has: the places that a training leaves free."""

import pytest

from flows.executors import left_over as module
from flows.executors.left_over import LeftOver, left_over
from tasks.config.schema import Compute

ALL, NONE = {"side_by_side": True}, {"side_by_side": False}


@pytest.mark.parametrize(("gpus", "cores", "compute", "expected"), [
    ([], 2, {}, None), ([], 2, {"processes": 1}, None), ([], 8, {"processes": 6} | ALL, LeftOver(2)),
    ([], 2, {"processes": 1} | ALL, LeftOver(1)), ([], 2, ALL, LeftOver(None)),
    ([], 2, {"processes": 2} | ALL, LeftOver(2)), (["0"], 8, {}, None), (["0"], 8, {"processes": 1}, None),
    (["0"], 8, ALL, LeftOver(None)), (["4", "5", "7"], 8, {"processes": 1} | NONE, None),
    (["4", "5", "7"], 8, {"processes": 1}, LeftOver(2, {"CUDA_VISIBLE_DEVICES": "5,7"})),
    (["4", "5", "7"], 8, {"processes": 9}, None),
])  # fmt: skip
def test_it_has_what_is_left_free(monkeypatch, gpus, cores, compute, expected):
    monkeypatch.setattr(module, "visible_gpus", lambda: gpus)
    monkeypatch.setattr(module, "cores", lambda: cores)
    assert left_over(Compute(**compute)) == expected
