"""When a checkpoint is due."""

import pytest

from fewstep.training.run_options import RunOptions


@pytest.mark.parametrize(("seconds", "cost", "due"), [(19, 0.1, False), (20, 0.1, True), (20, 0.4, True),
                                                      (1999, 40, False), (2000, 40, True)])  # fmt: skip
def test_checkpoints_that_are_waited_for_long_come_more_seldom(seconds, cost, due):
    assert RunOptions(images=1).checkpoint_due(seconds, images=10**6, cost=cost) is due


def test_by_time_none_is_due_while_one_is_being_written():
    assert not RunOptions(images=1).checkpoint_due(1e6, images=10**6, cost=0.0, busy=True)
    assert RunOptions(images=1, checkpoint_images=512).checkpoint_due(0.0, images=512, cost=0.0, busy=True)


def test_where_they_are_told_images_alone_count():
    told = RunOptions(images=1, checkpoint_images=512)
    assert told.checkpoint_due(0.0, images=512, cost=100.0) and not told.checkpoint_due(10**6, images=511, cost=0.0)
