"""Units of work side by side: how many threads each computes with, and what an error stops."""

import time

import pytest
import torch

from fewstep.util.torch_threads import one_thread, threads
from fewstep.util.workers import in_threads


@pytest.mark.parametrize(("workers", "counts"), [(1, {2}), (3, {1})])
def test_workers_side_by_side_compute_with_one_thread_each(workers, counts):
    with threads(2):
        seen = []
        in_threads(workers)(lambda unit: seen.append((unit, torch.get_num_threads())), range(6))
        assert sorted(unit for unit, _ in seen) == list(range(6)) and {count for _, count in seen} == counts
        assert torch.get_num_threads() == 2
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_error_stops_what_has_not_begun(workers):
    seen = []

    def work(unit: int) -> None:
        seen.append(unit)
        time.sleep(0.002)
        if unit == 3:
            raise ValueError("three")

    with pytest.raises(ValueError, match="three"):
        in_threads(workers)(work, range(1000))
    assert len(seen) < 1000
