"""Garbage in the store that hosts share: never what a registered version, a run, a lease or a checkout needs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fewstep.util.errors import Busy, SettingsError
from tasks.engine import remote_cleanup
from tasks.engine.remote_cleanup import Needed, collect
from tasks.storage.object_store import Store
from tasks.storage.sharing import lease
from tasks.storage.sharing.collection import collecting, sent_whole
from tasks.storage.sharing.lease import Holder
from tasks.storage.workspace import Workspace
from tests.fake_project import FakeProject

NOTHING = Needed(frozenset(), frozenset())
OTHER = Holder(owner="two-1", host="two", pid=1)


@pytest.fixture
def hosts(tmp_path, s3_prefix) -> list[FakeProject]:
    """Two clones on one store."""
    one = FakeProject(tmp_path / "one")
    one.dvc("init", "-q", "-f")
    shutil.copytree(one.folder, tmp_path / "two")
    two = FakeProject.at(tmp_path / "two")
    for host in (one, two):
        host.dvc("remote", "add", "-q", "-f", "-d", "store", s3_prefix)
    return [one, two]


def make(host: FakeProject, aws: dict[str, str], size: int) -> tuple[str, str]:
    """The shard stage with records of this size: how it was had, and its key."""
    path = host.folder / "params.yaml"
    (line,) = (line for line in path.read_text().splitlines() if line.startswith("data:"))
    path.write_text(path.read_text().replace(line, f"data: {{source: digits, record_size: {size}}}"))
    state = host.all("shard", **aws)["shard"]
    return state, json.loads((host.folder / "data" / "shards" / "manifest.json").read_text())["key"]


def dies(*_, **__):
    raise InterruptedError


def test_what_nobody_needs_goes_and_all_else_can_be_had_by_another_host(hosts, s3_server, s3_prefix, monkeypatch):
    (one, two), aws = hosts, s3_server.environment
    store, workspace = Store(f"{s3_prefix}/fewstep"), Workspace(one.folder)
    keys = {size: make(one, aws, size)[1] for size in (17, 18, 19, 20)}     # 20 lies in the checkout
    held = lease.take(store, f"keys/{keys[18]}", OTHER)
    store.put_if_absent(f"work/{keys[17]}/1/{'0' * 64}", b"unfinished")
    registered = Needed(frozenset({keys[19]}), frozenset())

    def objects() -> list[str]:
        return [name for name in s3_server.names() if s3_prefix.rpartition("/")[2] in name and "/leases/" not in name]

    before = objects()
    dry = collect(workspace, registered, None, dry=True)
    assert objects() == before and dry["forgotten"] == 1 and dry["kept"] == 3 and dry["work"] == 1
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(remote_cleanup, "collect_remote_garbage", dies)
        collect(workspace, registered, None)
    assert len(before) - len(objects()) == 2        # its announcement and the work
    assert collect(workspace, registered, None) == {**dry, "forgotten": 0, "work": 0} and dry["removed"] >= 5
    assert len(before) - len(objects()) == dry["removed"] + 2
    held.give_back()
    shutil.rmtree(one.folder / ".dvc" / "cache")        # what is kept is kept in the store
    assert [make(two, aws, size)[0] for size in (18, 19, 20)] == ["restored"] * 3
    assert make(two, aws, 17)[0] == "made"

    again = json.loads(one.check("gc", "--remote", "--json", **aws))        # no version is registered, no lease held
    assert again["forgotten"] == 3 and again["kept"] == 1
    assert [name for name in store.names("") if "/" not in name] == [f"{keys[20]}.json"]


def test_one_host_at_a_time_collects_and_who_sends_meanwhile_sends_again(hosts, s3_prefix):
    store, sent = Store(f"{s3_prefix}/fewstep"), []
    with collecting(store, OTHER), pytest.raises(Busy, match="garbage is being collected there on two"):
        collect(Workspace(hosts[0].folder), NOTHING, None)

    def send() -> int:
        sent.append(1)
        if len(sent) == 1:
            with collecting(store, OTHER):
                pass
        return len(sent)

    assert sent_whole(store, send) == 2
    assert sent_whole(store, send) == 3


def test_without_a_store_that_hosts_share_there_is_nothing_to_collect(tmp_path):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    remote = local\n['remote \"local\"']\n    url = ../x\n")
    with pytest.raises(SettingsError, match="no object store"):
        collect(Workspace(Path(tmp_path)), NOTHING, None)
