"""Units as Prefect tasks: grouped when they are many, none begun after an error that trying again will not cure."""

import threading

import pytest

from flows.executors.prefect_tasks import MOST_TASKS, _Work, grouped


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
    work = _Work(run_unit, one_thread=False)
    with pytest.raises(ConnectionResetError):
        work.run_units("", ["a", "b"])
    assert work.run_units("", ["b"]) == 1
    with pytest.raises(ValueError):
        work.run_units("", ["c", "d"])
    assert work.run_units("", ["e", "f"]) == 0 and begun == ["a", "b", "c"]


def test_units_side_by_side_compute_with_one_thread_each():
    import torch

    counts = []
    work = _Work(lambda unit: counts.append(torch.get_num_threads()), one_thread=True)
    thread = threading.Thread(target=work.run_units, args=("", ["a"]))
    thread.start()
    thread.join()
    assert counts == [1]
