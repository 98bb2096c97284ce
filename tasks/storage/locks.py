"""One run at a time in a checkout, by a lock the kernel frees at death; children that die with their parent."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from fewstep.util.errors import Busy
from tasks.storage.workspace import Workspace

_PR_SET_PDEATHSIG = 1
_held: dict[str, int] = {}


def lock_path(workspace: Workspace):
    return workspace.local / "lock"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """An exclusive `flock` on `path`; the kernel frees it when the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def workspace_lock(workspace: Workspace, run_name: str) -> Iterator[None]:
    """Hold the checkout for `run_name`. Raises Busy naming the holder. Within one process it may be taken again."""
    path = lock_path(workspace)
    name = str(path)
    if name in _held:
        _held[name] += 1
        try:
            yield
        finally:
            _held[name] -= 1
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        for attempt in range(20):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                who = _read(handle)
                if who or attempt == 19:    # without a name it is somebody who only looks, or has just begun
                    raise Busy(f"another run works in {workspace.root}: {who.get('run')} (process {who.get('pid')})",
                               hint="wait for it (`fewstep status`), or use `fewstep run --isolated`") from None
                time.sleep(0.05)
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps({"run": run_name, "pid": os.getpid()}).encode(), 0)
        _held[name] = 1
        try:
            yield
        finally:
            del _held[name]
            os.ftruncate(handle, 0)
    finally:
        os.close(handle)    # frees the lock; children do not inherit the handle


def holder(workspace: Workspace) -> dict | None:
    """`{run, pid}` of the run that holds the checkout now, or None. Asks the kernel, not the file's text."""
    return said_by_holder(lock_path(workspace))


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
        return json.loads(os.pread(handle, 65536, 0) or b"{}") or {}
    except ValueError:
        return {}


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
