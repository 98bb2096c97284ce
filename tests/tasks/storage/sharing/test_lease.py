"""Leases on a real S3 server: one of many has one, death and sleep end it, what was said passes on."""

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.storage.object_store import Store
from tasks.storage.sharing import lease as leases
from tasks.storage.sharing.host import NAME, owner
from tasks.storage.sharing.lease import Holder, Lease, LeaseLost, Standing, look, take
from tasks.storage.sharing.lease_keeper import LeaseKeeper, kept
from tasks.storage.workspace import Workspace


def holder(name: str) -> Holder:
    return Holder(owner=f"{name}-1", host=name, pid=os.getpid(), run="toy")


@pytest.fixture
def store(s3_prefix, monkeypatch):
    monkeypatch.setenv(leases.SECONDS, "3")
    return Store(s3_prefix)


def wait_until(condition) -> None:
    while not condition():
        time.sleep(0.1)


def test_of_many_hosts_at_once_one_takes_it_and_the_others_hear_who(store):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: take(store, "x", holder(f"host{n}")), range(8)))
    (taken,) = [answer for answer in answers if isinstance(answer, Lease)]
    said = {str(answer.file.holder) for answer in answers if isinstance(answer, Standing)}
    assert said == {f"run toy on {taken.file.holder.host} (process {os.getpid()})"}
    assert look(store, "x").live and look(store, "y") is None and leases.names(store, "") == ["x"]


def test_what_was_said_passes_to_the_next_holder(store):
    first = take(store, "x", holder("one"))
    first.renew(work="step 1", other=1)
    first.give_back(work="step 2", other=None)
    assert not look(store, "x").live
    second = take(store, "x", holder("two"))
    assert second.file.content == {"work": "step 2"} and second.file.epoch == 2
    with pytest.raises(LeaseLost, match="was taken over by run toy on two"):
        first.renew(work="of a sleeper")
    assert look(store, "x").file.content == {"work": "step 2"}


def test_a_file_lock_ends_the_lease_of_a_dead_process_of_the_same_host_at_once(store):
    take(store, "x", holder("one"))
    assert isinstance(take(store, "x", holder("two"), alone_here=True), Standing)
    again = take(store, "x", holder("one"), alone_here=True)
    assert isinstance(again, Lease) and again.file.epoch == 2


HOLD = """
import sys, time
from tasks.storage.object_store import Store
from tasks.storage.sharing.lease import Holder, take
from tasks.storage.sharing.lease_keeper import LeaseKeeper
keeper = LeaseKeeper(take(Store(sys.argv[1]), "x", Holder(owner="one-1", host="one", pid=1)))
keeper.say(work="step 1")
print("held", flush=True)
while keeper.lost is None:
    time.sleep(0.1)
print(keeper.lost, flush=True)
"""


@pytest.fixture
def host(store, s3_prefix):
    """A host of its own that holds the lease `x` and renews it."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, s3_prefix], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    wait_until(lambda: look(store, "x").file.content == {"work": "step 1"})
    yield process
    process.kill()
    process.communicate()


def test_a_lease_that_is_renewed_outlives_its_time_and_lapses_with_its_holder(host, store):
    first = look(store, "x").file.beat
    wait_until(lambda: look(store, "x").file.beat > first + 5)      # five thirds of its time
    assert isinstance(take(store, "x", holder("two")), Standing)
    host.send_signal(signal.SIGKILL)
    wait_until(lambda: isinstance(take(store, "x", holder("two")), Lease))
    assert look(store, "x").file.content == {"work": "step 1"}


def test_who_slept_beyond_its_lease_hears_on_waking_that_it_is_taken(host, store):
    host.send_signal(signal.SIGSTOP)
    wait_until(lambda: not look(store, "x").live)
    with kept(take(store, "x", holder("two"))) as keeper:
        keeper.say(work="step 2")
        wait_until(lambda: look(store, "x").file.content == {"work": "step 2"})
        host.send_signal(signal.SIGCONT)
        assert "was taken over by run toy on two" in host.stdout.readline()
        keeper.require()
    assert look(store, "x").file.content == {"work": "step 2"} and not look(store, "x").live


def test_a_store_that_is_away_for_a_moment_costs_nothing(s3_server, store):
    keeper = LeaseKeeper(take(store, "x", holder("one")))
    s3_server.stop()
    keeper.say(work="said while it was away")
    s3_server.start()
    wait_until(lambda: look(store, "x").file.content == {"work": "said while it was away"})
    keeper.give_back()
    assert not look(store, "x").live


def test_worktrees_are_one_owner_and_copies_and_other_machines_are_others(tmp_path, monkeypatch):
    first = Workspace(tmp_path / "a")
    mine = owner(first)
    assert mine == owner(first) and mine.startswith(os.uname().nodename)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert owner(Workspace(tmp_path / "b")) != mine
    monkeypatch.setenv(NAME, "pod-7")
    assert owner(first).startswith("pod-7-") and owner(first) != mine
