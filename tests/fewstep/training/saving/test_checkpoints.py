"""Checkpoints that a thread writes: whole at any death, of the moment they were taken at, errors in the training."""

import os
import signal
import threading
from pathlib import Path

import pytest
import torch

from fewstep.training.saving import checkpoints, snapshot
from fewstep.training.saving.checkpoints import ROWS, WHOLE, Checkpoints, ShardedCheckpoints
from fewstep.training.saving.snapshot import Snapshot
from fewstep.util.errors import DiskFull
from fewstep.util.files import TEMPORARY
from tests import children
from tests.file_events import FileEvents

LAST = 4


def state(step: int) -> dict[str, torch.Tensor]:
    return {"weights": torch.full((3, 5), float(step)), "count": torch.tensor(step)}


def write_some(folder: str, fatal: int | None, counted: str | None = None) -> None:
    """Four checkpoints, the last one without a thread; dies before its event of this number."""
    os.setpgid(0, 0)
    files, events = Checkpoints(Path(folder)), FileEvents(folder, fatal)
    for step in range(1, LAST + 1):
        (files.save if step == LAST else files.save_behind)(step, {"of": step}, state(step))
        with open(f"{folder}-done", "ab") as done:
            done.write(b".")    # one each: whole at any death
    if counted is not None:
        Path(counted).write_text(str(events.count))


def ended(*arguments) -> int:
    process = children.context().Process(target=write_some, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def test_whatever_event_it_dies_before_the_newest_whole_one_is_found(tmp_path):
    assert ended(str(tmp_path / "whole"), None, str(tmp_path / "events")) == 0
    events = int((tmp_path / "events").read_text())
    assert events > 4 * LAST
    for number in range(1, events + 1):
        folder = tmp_path / str(number)
        assert ended(str(folder), number) == -signal.SIGKILL
        done = Path(f"{folder}-done").stat().st_size if Path(f"{folder}-done").exists() else 0
        found = Checkpoints(folder).latest()
        step = 0 if found is None else found.step
        assert done - 1 <= step <= done + 1, number     # of two that were begun the first is whole
        if found is not None:
            assert found.record["of"] == step
            assert all(torch.equal(found.tensors[name], value) for name, value in state(step).items())
        assert not list(folder.glob(f"{TEMPORARY}*"))


@pytest.fixture
def held(monkeypatch) -> threading.Event:
    """Writing waits for this."""
    go, write = threading.Event(), checkpoints.write_tensors

    def waiting(*arguments):
        go.wait()
        return write(*arguments)

    monkeypatch.setattr(checkpoints, "write_tensors", waiting)
    return go


def test_it_is_of_the_moment_it_was_taken_at_whatever_moves_meanwhile(tmp_path, held):
    files, moving = Checkpoints(tmp_path), state(1)
    files.save_behind(1, {}, moving)
    for value in moving.values():
        value.add_(7)
    assert files.behind.busy and Checkpoints(tmp_path).latest() is None
    held.set()
    files.behind.wait()
    assert all(torch.equal(files.latest().tensors[name], value) for name, value in state(1).items())


@pytest.mark.parametrize("next_one", ["save", "save_behind"])
def test_the_next_one_waits_for_it(tmp_path, held, next_one):
    files = Checkpoints(tmp_path)
    files.save_behind(1, {}, state(1))
    threading.Timer(0.05, held.set).start()
    getattr(files, next_one)(2, {}, state(2))
    assert (tmp_path / "step-000000000001.json").is_file()
    files.behind.wait()
    assert files.latest().step == 2


def test_an_error_of_the_thread_is_the_next_caller_s_and_the_former_one_stays(tmp_path, monkeypatch):
    files = Checkpoints(tmp_path)
    files.save(1, {}, state(1))
    monkeypatch.setattr(checkpoints, "write_tensors", lambda *_: os.write(os.open("/dev/full", os.O_WRONLY), b"x"))
    files.save_behind(2, {}, state(2))
    with pytest.raises(DiskFull, match="disk full while writing .*step-000000000002"):
        files.save(3, {}, state(3))
    assert files.latest().step == 1 and not list(tmp_path.glob(f"{TEMPORARY}*"))


def test_copies_take_over_the_memory_of_the_last_one():
    taken, first = Snapshot(), state(1)
    assert taken.missing(first) == 3 * 5 * 4 + 8
    places = {name: value.data_ptr() for name, value in taken.take(first).items()}
    assert taken.missing(state(2)) == 0
    second = taken.take(state(2))
    assert {name: value.data_ptr() for name, value in second.items()} == places
    assert all(torch.equal(second[name], value) for name, value in state(2).items())
    grown = state(3) | {"moments": torch.ones(2)}
    assert taken.missing(grown) == 8 and taken.take(grown)["moments"].sum() == 2
    assert taken.take(state(4)).keys() == state(4).keys() and taken.missing(grown) == 8


def test_a_copy_that_does_not_fit_is_told_once_and_the_caller_writes_itself(tmp_path, monkeypatch):
    heard, writers, write = [], [], checkpoints.write_tensors

    def noting(*arguments):
        writers.append(threading.current_thread())
        return write(*arguments)

    monkeypatch.setattr(checkpoints, "write_tensors", noting)
    monkeypatch.setattr(snapshot, "free_memory", lambda: 2 * (3 * 5 * 4 + 8) - 1)
    files = Checkpoints(tmp_path, heard.append)
    for step in (1, 2):
        files.save_behind(step, {}, state(step))
    assert writers == [threading.main_thread()] * 2 and files.latest().step == 2
    assert len(heard) == 1 and "does not fit beside the training" in heard[0]
    monkeypatch.setattr(snapshot, "free_memory", lambda: 2 * (3 * 5 * 4 + 8))
    files.save_behind(3, {}, state(3))
    files.behind.wait()
    assert writers[2] is not threading.main_thread() and files.latest().step == 3


class Meeting:
    """Process `rank` of two, which are threads of this one."""

    size = 2

    def __init__(self, rank: int, barrier: threading.Barrier, said: list):
        self.rank, self._barrier, self._said = rank, barrier, said

    def apart(self):
        return Meeting(self.rank, self._barrier, self._said)

    def of_each(self, value):
        self._said[self.rank] = value
        self._barrier.wait()
        found = list(self._said)
        self._barrier.wait()
        return found


def two_of(folder) -> list[ShardedCheckpoints]:
    barrier, said = threading.Barrier(2), [None, None]
    return [ShardedCheckpoints(folder, Meeting(rank, barrier, said)) for rank in range(2)]


PLACED = {"placements": {"weights": ROWS, "count": WHOLE}}


def test_rows_are_committed_when_every_process_has_written_its_own(tmp_path, held):
    both = two_of(tmp_path)
    for rank, files in enumerate(both):
        files.save_behind(5, PLACED, state(rank))
    assert all(files.behind.busy for files in both) and not list(tmp_path.glob("*.json"))
    held.set()
    for files in both:
        files.behind.wait()
    found = Checkpoints(tmp_path).latest()
    assert found.step == 5 and found.record["mesh"] == [2] and found.tensors["count"] == 0
    assert torch.equal(found.tensors["weights"], torch.cat([state(rank)["weights"] for rank in range(2)]))


@pytest.mark.parametrize("fails", [0, 1])
def test_where_one_process_cannot_write_none_commits_and_it_alone_ends(fails, tmp_path, monkeypatch):
    both, write = two_of(tmp_path), checkpoints.write_tensors

    def full(path, tensors):
        if tensors["count"] == fails:
            os.write(os.open("/dev/full", os.O_WRONLY), b"x")
        return write(path, tensors)

    monkeypatch.setattr(checkpoints, "write_tensors", full)
    for rank, files in enumerate(both):
        files.save_behind(5, PLACED, state(rank))
    both[1 - fails].behind.wait()
    with pytest.raises(DiskFull, match=f"rank-{fails}"):
        both[fails].behind.wait()
    assert Checkpoints(tmp_path).latest() is None and len(list(tmp_path.iterdir())) == 1
