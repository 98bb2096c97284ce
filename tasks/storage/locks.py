"""Locks that the kernel frees when their holder dies (`flock`), and children that die with their parent.

Python's `filelock` locks files too, but its holder cannot be asked for, nor say what it is doing."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fewstep.util.errors import Busy
from fewstep.util.plain_data import NotPlain, from_json
from tasks.storage.workspace import Workspace

_PR_SET_PDEATHSIG = 1
_PATIENCE, _PAUSE = 1.0, 0.05   # seconds; `said_by_holder` takes a lock for a moment
_workspaces: dict[str, int] = {}    # path of the lock → how often this process holds it


class Lock:
    """A lock that this process holds."""

    def __init__(self, handle: int):
        self._handle = handle

    def say(self, facts: dict) -> None:
        """Tell who asks by `said_by_holder` these facts, a JSON object, for as long as the lock is held."""
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, json.dumps(facts).encode(), 0)


@contextlib.contextmanager
def held(path: Path, busy: Callable[[dict], Exception] | None = None, *, private: bool = False) -> Iterator[Lock]:
    """Hold the exclusive lock on the file `path`, which is made if needed. Children do not inherit the lock.

    Args:
        path: the file.
        busy: makes the error to raise while another process holds the lock, from what that one said ({} for nothing).
            None: wait until the lock is free.
        private: whether what the holder says is for its user alone; nobody else can then ask for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600 if private else 0o666)
    try:
        if busy is None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        else:
            _try_for_a_moment(handle, busy)
        if private:
            os.fchmod(handle, 0o600)    # it may be an older file
        try:
            yield Lock(handle)
        finally:
            os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _try_for_a_moment(handle: int, busy: Callable[[dict], Exception]) -> None:
    began = time.monotonic()
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            said, waited = _read(handle), time.monotonic() - began
            if waited > _PATIENCE or (said and waited > _PAUSE):   # at first the words may be those of a dead holder
                raise busy(said) from None
            time.sleep(_PAUSE)


def lock_path(workspace: Workspace) -> Path:
    """The file whose lock a run in this checkout holds."""
    return workspace.local / "lock"


@contextlib.contextmanager
def workspace_lock(workspace: Workspace, run_name: str) -> Iterator[None]:
    """Hold the checkout for `run_name`. Raises Busy naming the holder. Within one process it may be taken again."""
    path = lock_path(workspace)
    name = str(path)
    if name in _workspaces:
        _workspaces[name] += 1
        try:
            yield
        finally:
            _workspaces[name] -= 1
        return

    def busy(said: dict) -> Busy:
        return Busy(f"another run works in {workspace.root}: {said.get('run')} (process {said.get('pid')})",
                    hint="wait for it (`fewstep status`), or use `fewstep run --isolated`")

    with held(path, busy) as lock:
        lock.say({"run": run_name, "pid": os.getpid()})
        _workspaces[name] = 1
        try:
            yield
        finally:
            del _workspaces[name]


def said_by_holder(path: Path) -> dict | None:
    """The JSON in the file at `path` while a process holds its lock ({} for no text); None when none does."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _read(handle)
    finally:
        os.close(handle)


def _read(handle: int) -> dict:
    try:
        said = from_json(os.pread(handle, 65536, 0) or b"{}")
    except NotPlain:    # of a dead holder, or half of what a living one writes
        return {}
    return said if isinstance(said, dict) else {}


def die_with_dvc() -> None:
    """Die when the `dvc repro` that started us dies, also when its shell stands between and lives on."""
    shell = os.getppid()
    dvc = _parent_of(shell)
    die_with_parent(shell)
    try:
        line = Path(f"/proc/{shell}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return
    if dvc is None or b"-c" not in line:    # the shell has become us: the parent is DVC itself
        return

    def watch() -> None:
        while _parent_of(shell) == dvc:
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="watch-dvc").start()


def _parent_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


def die_with_parent(parent: int | None = None, by: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process the signal `by` when its parent dies; at once if that is gone already.

    Args:
        parent: process id of the expected parent; None: whatever the parent is now.
        by: the signal.

    On systems without prctl (not Linux) the later death of the parent is not noticed.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, by, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), by)
