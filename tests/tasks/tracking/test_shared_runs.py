"""Runs in the store that hosts share: who works on what, what is certain of it, who may continue it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from fewstep.util.errors import Busy, NotAvailable
from tasks.storage.sharing import lease
from tasks.storage.sharing.host import NAME
from tasks.storage.workspace import Workspace
from tasks.tracking.all_runs import AllRuns
from tasks.tracking.run_record import FINISHED, KILLED, RUNNING
from tasks.tracking.run_records import RunStore
from tasks.tracking.shared_runs import RunTakenOver

SETTINGS = {"name": "toy", "seed": 0}


class Host:
    """A checkout whose code believes that it is on a machine of this name."""

    def __init__(self, folder: Path, name: str, url: str):
        (folder / ".dvc").mkdir(parents=True)
        (folder / ".dvc" / "config").write_text(f"[core]\n    remote = store\n['remote \"store\"']\n    url = {url}\n")
        self.workspace, self.name = Workspace(folder), name

    def __enter__(self) -> RunStore:
        self._former, os.environ[NAME] = os.environ.get(NAME), self.name
        return RunStore(self.workspace)

    def __exit__(self, *_):
        del os.environ[NAME]
        if self._former is not None:
            os.environ[NAME] = self._former


@pytest.fixture
def hosts(tmp_path, s3_prefix, monkeypatch):
    monkeypatch.setenv(lease.SECONDS, "3")
    return [Host(tmp_path / name, name, s3_prefix) for name in ("one", "two")]


def until(condition) -> None:
    while not condition():
        time.sleep(0.1)


def test_another_hosts_run_is_seen_cannot_be_taken_and_is_not_given_up(hosts):
    one, two = hosts
    with one as store:
        record = store.new(SETTINGS)
        (store.folder_of(record.id) / "params.yaml").write_text("name: toy\n")
        with store.hold(record):
            with two as other:
                until(lambda: AllRuns(two.workspace).ids() == [record.id])
                until(lambda: other.shared.get(record.id) is not None)
                known = AllRuns(two.workspace).find(record.id[-4:])
                assert known.alive and known.state == RUNNING and known.host == "one" and not known.here
                assert not other.abandoned(record.id) and other.alive(record.id)
                adopted = AllRuns(two.workspace).adopt(known)
                assert (other.folder_of(record.id) / "params.yaml").read_text() == "name: toy\n"
                with pytest.raises(Busy, match="on one"), other.hold(adopted):
                    pass
            store.close(record, FINISHED)
    with two as other:
        known = AllRuns(two.workspace).get(record.id)
        assert known.state == FINISHED and not known.alive and other.abandoned(record.id)
    assert AllRuns(two.workspace).all()[0].record.id == record.id


def test_a_run_is_continued_elsewhere_and_its_first_host_hears_it(hosts):
    one, two = hosts
    with one as store:
        record = store.new(SETTINGS)
        holding = store.hold(record)
        sharer = holding.__enter__()
        until(lambda: store.shared.get(record.id) is not None)
        sharer._keeper.end()        # as a process that sleeps: it renews nothing
        until(lambda: not store.shared.standing(record.id).live)
    with two as other:
        known = AllRuns(two.workspace).find()
        assert known.state == KILLED and known.host == "one"
        continued = AllRuns(two.workspace).adopt(known)
        with other.hold(continued):
            until(lambda: len(other.shared.get(record.id).record.attempts) == 2)
            with pytest.raises(RunTakenOver, match="on two"):
                sharer.require()
            with one as store:
                seen = AllRuns(one.workspace).get(record.id)
                assert seen.alive and not seen.here and seen.host == "two"
                assert not store.settle(store.load(record.id))      # it is not dead: it lives elsewhere
            other.close(continued, FINISHED)
    with one as store:
        assert not AllRuns(one.workspace).newest_in(record.root, record.settings_digest).can_be_continued
        holding.__exit__(None, None, None)
        assert AllRuns(one.workspace).get(record.id).state == FINISHED


def test_without_an_answer_of_the_store_nothing_is_certain_and_this_host_goes_on(hosts, monkeypatch):
    one, _ = hosts
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with one as store:
        record = store.new(SETTINGS)
        with store.hold(record) as sharer:
            sharer.require()
            assert store.alive(record.id)
        with pytest.raises(NotAvailable):
            store.abandoned(record.id)
        runs = AllRuns(one.workspace)
        assert runs.find().record.id == record.id and "did not" not in (runs.problem or "") and runs.problem
