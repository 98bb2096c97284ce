"""Pictures of unfinished work in the shared store: whole, bounded in number, verified, and only the holder's count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fewstep.util.hashing import sha256_bytes
from tasks.storage.object_store import Store
from tasks.storage.sharing.lease import Holder, look, take
from tasks.storage.sharing.lease_keeper import LeaseKeeper
from tasks.storage.sharing.shared_work import SharedWork

KEY = "k" * 64


class Host:
    """A host that holds the key's lease and works in a folder of its own."""

    def __init__(self, store: Store, folder: Path, name: str):
        self.said: list[str] = []
        self.work, self.trash = folder / name / KEY, folder / name / "trash"
        lease = take(store, f"keys/{KEY}", Holder(owner=name, host=name, pid=1))
        self.keeper = LeaseKeeper(lease)
        self.shared = SharedWork(store, KEY, self.keeper, self.said.append, self.said.append)
        self.shared.bring(self.work, self.trash)

    def has(self, **files: str) -> None:
        """The folder's content from now on."""
        for path in self.work.glob("step-*"):
            path.unlink()
        for name, text in files.items():
            (self.work / f"step-{name}").write_text(text)

    def found(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.work.glob("step-*")}

    def leaves(self) -> None:
        self.shared.upload(self.work)
        self.keeper.give_back()


@pytest.fixture
def store(s3_prefix) -> Store:
    return Store(s3_prefix)


def pointer(store: Store) -> dict:
    return look(store, f"keys/{KEY}").file.content["work"]


def test_the_store_holds_the_newest_picture_and_no_other(store, tmp_path):
    one = Host(store, tmp_path, "one")
    for number in range(4):
        one.has(**{str(number): f"weights {number}", str(number + 1): f"weights {number + 1}"})
        (one.work / ".fewstep-tmp-1-ab").write_text("being written")
        one.shared.upload(one.work)
        assert len(store.names("work/")) == 3       # two files and their listing
    one.shared.upload(one.work)
    assert one.said == ["work so far is in the shared store"] * 4     # nothing new, nothing sent
    one.keeper.give_back()
    two = Host(store, tmp_path, "two")
    assert two.found() == one.found() and "continued from what another host left" in two.said[0]
    assert not list(two.work.rglob(".fewstep-tmp-*"))
    two.has(x="further")
    two.shared.upload(two.work)
    assert len(store.names("work/")) == 2
    two.shared.forget()
    assert store.names("work/") == []
    two.keeper.give_back()


def test_a_host_keeps_its_own_work_unless_another_went_further(store, tmp_path):
    one = Host(store, tmp_path, "one")
    one.has(a="shared")
    one.leaves()
    one.has(a="shared", b="made since, and not shared")
    again = Host(store, tmp_path, "one")
    assert again.found() == {"step-a": "shared", "step-b": "made since, and not shared"}
    again.keeper.give_back()
    two = Host(store, tmp_path, "two")
    two.has(a="shared", c="further")
    two.leaves()
    last = Host(store, tmp_path, "one")
    assert last.found() == {"step-a": "shared", "step-c": "further"}
    last.keeper.give_back()


def test_who_lost_the_lease_changes_nothing_that_counts(store, tmp_path):
    one = Host(store, tmp_path, "one")
    one.has(a="1")
    one.shared.upload(one.work)
    one.keeper.end()
    two = LeaseKeeper(take(store, f"keys/{KEY}", Holder(owner="one", host="two", pid=2), alone_here=True))
    before = pointer(store)
    one.has(b="of a sleeper")
    one.shared.upload(one.work)
    assert pointer(store) == before
    assert set(file["object"] for file in json.loads(store.read(before["listing"]))["files"]) <= set(store.names(""))
    two.give_back()


def test_damaged_bytes_and_paths_that_lead_outside_are_not_used(store, tmp_path):
    one = Host(store, tmp_path, "one")
    one.has(a="weights")
    one.leaves()
    listing = json.loads(store.read(pointer(store)["listing"]))
    (file,) = listing["files"]
    store.client.put_object(Bucket=store.bucket, Key=f"{store.prefix}/{file['object']}", Body=b"w3ights")
    two = Host(store, tmp_path, "two")
    assert two.found() == {} and "differs from its hash" in two.said[0]
    file["path"] = "../../outside"
    data = json.dumps(listing).encode()
    store.client.put_object(Bucket=store.bucket, Key=f"{store.prefix}/evil", Body=data)
    two.keeper.lease.renew(work={"format": 1, "listing": "evil", "sha256": sha256_bytes(data), "epoch": 9})
    two.shared.bring(two.work, two.trash)
    assert "names a path outside of the folder" in two.said[-1] and not (tmp_path / "outside").exists()
    two.keeper.give_back()
