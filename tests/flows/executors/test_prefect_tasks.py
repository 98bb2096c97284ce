"""Units as Prefect tasks: grouped when they are many, none begun after an error that trying again will not cure."""

import threading

import pytest

from fewstep.util.torch_threads import one_thread_each
from flows.executors.prefect_tasks import MOST_TASKS, _Begun, grouped


def test_many_units_share_tasks():
    units = [f"{number:05d}" for number in range(1234)]
    groups = grouped(units, MOST_TASKS)
    assert len(groups) <= MOST_TASKS and [unit for group in groups for unit in group] == units
    assert grouped(units[:3], MOST_TASKS) == [["00000"], ["00001"], ["00002"]] and grouped([], MOST_TASKS) == []


def test_no_unit_is_begun_after_an_error_that_stays():
    begun = []

    def run_unit(unit):
        begun.append(unit)
        if unit in errors:
            raise errors[unit]

    errors = {"a": ConnectionResetError(), "c": ValueError("bug")}
    work = _Begun(run_unit)
    with pytest.raises(ConnectionResetError):
        work.run_units("", ["a", "b"])
    assert work.run_units("", ["b"]) == 1
    with pytest.raises(ValueError):
        work.run_units("", ["c", "d"])
    assert work.run_units("", ["e", "f"]) == 0 and begun == ["a", "b", "c"]


def test_units_side_by_side_compute_with_one_thread_each():
    """Afterwards PyTorch uses as many threads as before."""
    import torch

    counts, before = [], torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread_each() as begin:
            work = _Begun(lambda unit: counts.append(torch.get_num_threads()))
            work.begin = begin
            threads = [threading.Thread(target=work.run_units, args=("", [name])) for name in "ab"]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert counts == [1, 1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
