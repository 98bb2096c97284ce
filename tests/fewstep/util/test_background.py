"""One piece of work at a time, whose errors are the caller's."""

import threading

import pytest

from fewstep.util.background import Background
from fewstep.util.errors import DiskFull


def test_the_caller_goes_on_and_the_next_piece_waits():
    behind, go, done = Background("test"), threading.Event(), []
    behind.start(lambda: (go.wait(), done.append(1)))
    assert behind.busy and done == []
    behind.check()
    go.set()
    behind.start(lambda: done.append(2))
    behind.wait()
    assert done == [1, 2] and not behind.busy


@pytest.mark.parametrize("ask", ["check", "wait", "start"])
def test_an_error_is_raised_at_the_next_question_and_once(ask):
    behind = Background("test")

    def full():
        raise DiskFull("no space")

    behind.start(full)
    behind.join()
    with pytest.raises(DiskFull, match="no space"):
        getattr(behind, ask)(*[lambda: None] * (ask == "start"))
    behind.check()
    behind.wait()
