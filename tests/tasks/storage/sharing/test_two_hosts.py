"""Two hosts, each a clone of one project, on one S3 server: what one makes the other waits for, or continues."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tasks.storage import worktrees
from tasks.storage.object_store import Store
from tasks.storage.sharing import lease, shared_work
from tasks.storage.workspace import Workspace
from tests.fake_project import FakeProject
from tests.s3_server import S3Server

UNITS = ("a", "b", "c", "d")
FAST = {lease.SECONDS: "4", shared_work.SECONDS: "0.2"}


class Host:
    """A clone of the project; what its processes say goes into a file."""

    def __init__(self, folder: Path, name: str, server: S3Server, prefix: str):
        self.project, self.folder = FakeProject.at(folder), folder
        self.marks, self.log = folder.parent / f"{name}-marks", folder.parent / f"{name}.log"
        self.environment = {**server.environment, **FAST, "FEWSTEP_HOST": name, "FAKE_MARKS": str(self.marks),
                            "FAKE_GO": str(folder.parent / "go")}
        self.project.dvc("remote", "add", "-q", "-f", "-d", "store", prefix, **self.environment)
        self.log.touch()

    def start(self, stage: str = "shard", **more: str) -> subprocess.Popen:
        return self.project.start("stage", "run", stage, log=self.log, **{**self.environment, **more})

    def said(self, text: str, process: subprocess.Popen) -> str:
        """Waits until its processes have said `text`; returns the line."""
        while True:
            lines = [line for line in self.log.read_text().splitlines() if text in line]
            if lines:
                return lines[0]
            assert process.poll() is None, self.log.read_text()
            time.sleep(0.05)

    def began(self, unit: str, process: subprocess.Popen, stage: str = "shard") -> None:
        """Waits until a unit is begun."""
        while unit not in self.units(stage):
            assert process.poll() is None, self.log.read_text()
            time.sleep(0.02)

    def units(self, stage: str = "shard") -> str:
        """Those that it has begun."""
        return "".join(unit for unit in UNITS if (self.marks / f"{stage}-{unit}.started").exists())


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A project with nothing made yet, under DVC."""
    project = FakeProject(tmp_path_factory.mktemp("clone") / "project")
    project.dvc("init", "-q", "-f")
    return project.folder


@pytest.fixture
def hosts(clone, tmp_path, s3_server, s3_prefix):
    made = []
    for name in ("one", "two"):
        shutil.copytree(clone, tmp_path / name)
        made.append(Host(tmp_path / name, name, s3_server, s3_prefix))
    yield made
    (tmp_path / "go").touch()


@pytest.fixture(scope="module")
def undisturbed(clone, tmp_path_factory) -> dict[str, bytes]:
    """The manifest and the files of an output that nobody disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "project"
    shutil.copytree(clone, folder)
    FakeProject.at(folder).check("stage", "run", "shard")
    return output(folder)


def output(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "data" / "shards").iterdir()}


def test_who_wants_what_another_host_is_making_waits_for_it_and_says_so(hosts, undisturbed, s3_prefix):
    one, two = hosts
    first = one.start(FAKE_HOLD="shard-b")
    one.began("b", first)
    second = two.start()
    assert "shard: on one (process" in two.said("is making it: waiting", second)
    (two.folder.parent / "go").touch()
    assert (first.wait(), second.wait()) == (0, 0), one.log.read_text() + two.log.read_text()
    assert "was put back" in two.log.read_text() and two.units() == "" and one.units() == "abcd"
    assert output(one.folder) == output(two.folder) == undisturbed
    store = Store(f"{s3_prefix}/fewstep")
    assert store.names("work/") == []
    (name,) = lease.names(store, "keys/")
    assert not lease.look(store, name).live


def test_work_of_a_killed_host_is_continued_by_another_and_the_result_is_the_same(hosts, undisturbed, s3_prefix):
    one, two = hosts
    first = one.start(FAKE_HOLD="shard-c")
    one.began("c", first)
    one.log.write_text("")      # what was shared is said again when c has begun: it holds a and b
    (one.folder / ".fewstep" / "partial").joinpath(next(os.walk(one.folder / ".fewstep" / "partial"))[1][0],
                                                   "scratch", "changed").touch()
    one.said("work so far is in the shared store", first)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    second = two.start()
    assert second.wait() == 0, two.log.read_text()
    assert "continued from what another host left" in two.log.read_text()
    assert one.units() == "abc" and two.units() == "cd"
    assert output(two.folder) == undisturbed
    again = one.start()
    assert again.wait() == 0 and "was put back" in one.log.read_text()
    assert output(one.folder) == undisturbed and Store(f"{s3_prefix}/fewstep").names("work/") == []
    assert list((one.folder / ".fewstep" / "partial").iterdir()) == []      # it was not needed to the end


def test_a_host_that_slept_beyond_its_lease_takes_the_result_of_who_took_over(hosts, undisturbed):
    one, two = hosts
    first = one.start(FAKE_HOLD="shard-c")
    one.began("c", first)
    os.killpg(first.pid, signal.SIGSTOP)
    second = two.start()
    assert second.wait() == 0, two.log.read_text()
    (two.folder.parent / "go").touch()
    os.killpg(first.pid, signal.SIGCONT)
    assert first.wait() == 0, one.log.read_text()
    assert "was taken over by on two" in one.log.read_text() and "was put back" in one.log.read_text()
    assert "d" not in one.units() and output(one.folder) == output(two.folder) == undisturbed


def test_the_same_host_continues_its_own_work_at_once(hosts, undisturbed):
    one, two = hosts
    first = one.start(FAKE_HOLD="shard-c", **{lease.SECONDS: "3600"})
    one.began("c", first)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    again = one.start()
    assert again.wait() == 0, one.log.read_text()
    assert "waiting" not in one.log.read_text() and output(one.folder) == undisturbed


def test_a_store_that_is_away_keeps_nobody_from_working(hosts, undisturbed):
    one, _ = hosts
    done = one.start(AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert done.wait() == 0 and output(one.folder) == undisturbed
    text = " ".join(one.log.read_text().split())
    assert "whether another host makes it could not be learnt" in text and "not yet on the DVC remote" in text


def test_of_two_worktrees_of_one_host_one_makes_it(clone, tmp_path, undisturbed):
    shutil.copytree(clone, tmp_path / "main")
    workspace, environment = Workspace(tmp_path / "main"), {"FAKE_GO": str(tmp_path / "go")}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path / "main", capture_output=True, text=True).stdout
    places = [FakeProject.at(worktrees.add(workspace, name, commit.strip()).root) for name in ("r1", "r2")]
    logs = [tmp_path / "r1.log", tmp_path / "r2.log"]
    marks = tmp_path / "marks"
    first = places[0].start("stage", "run", "shard", log=logs[0], FAKE_HOLD="shard-b", FAKE_MARKS=str(marks),
                            **environment)
    while not (marks / "shard-b.started").exists():
        assert first.poll() is None, logs[0].read_text()
        time.sleep(0.02)
    second = places[1].start("stage", "run", "shard", log=logs[1], FAKE_MARKS=str(marks), **environment)
    while "is making it: waiting" not in logs[1].read_text():
        assert second.poll() is None, logs[1].read_text()
        time.sleep(0.05)
    (tmp_path / "go").touch()
    assert (first.wait(), second.wait()) == (0, 0), logs[1].read_text()
    assert all((marks / f"shard-{unit}.started").read_text() == "x" for unit in UNITS)
    assert output(places[0].folder) == output(places[1].folder) == undisturbed
