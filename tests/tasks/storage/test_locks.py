"""Locks name their holder and are free when it dies; children die with their parent."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from fewstep.util.errors import Busy
from tasks.storage import locks
from tasks.storage.workspace import Workspace

HOLD = '''
import sys, time
from pathlib import Path
from tasks.storage.locks import workspace_lock
from tasks.storage.workspace import Workspace
with workspace_lock(Workspace(Path(sys.argv[1])), "the-first-run"):
    print("held", flush=True)
    time.sleep(60)
'''


def test_the_lock_names_its_holder_and_is_free_when_that_dies(tmp_path):
    workspace = Workspace(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(Busy, match=f"the-first-run .process {process.pid}.") as caught:     # noqa: SIM117
        with locks.workspace_lock(workspace, "b"):
            pass
    assert caught.value.exit_code == 5 and holder_of(workspace)["run"] == "the-first-run"
    process.kill()
    process.wait()
    process.stdout.close()
    assert holder_of(workspace) is None
    with locks.workspace_lock(workspace, "b"), locks.workspace_lock(workspace, "b"):     # again in the same process
        pass
    assert holder_of(workspace) is None


def holder_of(workspace: Workspace) -> dict | None:
    return locks.said_by_holder(locks.lock_path(workspace))


def test_a_lock_is_refused_with_what_its_holder_says_or_waited_for(tmp_path):
    path = tmp_path / "deep" / "lock"
    with locks.held(path) as lock:
        assert locks.said_by_holder(path) == {}
        lock.say({"url": "http://here"})
        assert locks.said_by_holder(path) == {"url": "http://here"}
        with pytest.raises(Busy, match="http://here"), locks.held(path, lambda said: Busy(f"taken: {said['url']}")):
            pass
    assert locks.said_by_holder(path) is None and path.read_bytes() == b""
    with pytest.raises(ValueError, match="inside"), locks.held(path) as lock:
        lock.say({"url": "x"})
        raise ValueError("inside")
    assert path.read_bytes() == b""


def test_the_words_of_a_dead_holder_refuse_nobody(tmp_path):
    path = tmp_path / "lock"
    path.write_text('{"run": "died"}')
    with locks.held(path, lambda said: Busy("taken")):
        pass


PARENT = '''
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c",
    "import os, time; from tasks.storage.locks import die_with_parent; die_with_parent(os.getppid());"
    "print(os.getpid(), flush=True); time.sleep(60)"])
time.sleep(60)
'''


def test_a_child_dies_with_its_parent():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and "zombie" not in Path(f"/proc/{child}/status").read_text():
        assert time.monotonic() < end, "the child outlived its parent"
        time.sleep(0.01)
