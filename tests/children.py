"""Processes that tests may kill or starve: forked from a server that has loaded torch and MLflow once."""

import fcntl
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle

from fewstep.util.errors import FewstepError

_PRELOAD = ["tests.fewstep.trajectories.making", "tests.registry_world", "tasks.registry.packaged.pyfunc_model"]


def context() -> multiprocessing.context.ForkServerContext:
    """The fork server; its children share no state with the test's process."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(_PRELOAD)
    return found


def result(function: Callable, *arguments: Any, largest_file: int | None = None) -> Any:
    """What ``function`` returns in a process of its own (the text of a FewstepError that it raises).

    ``largest_file``: limit in bytes on any file's size: the call that fails is the one that fails on a full disk.
    """
    server = context()
    queue = server.SimpleQueue()
    child = server.Process(target=_report, args=(queue, function, arguments, largest_file))
    child.start()
    child.join()
    assert child.exitcode == 0
    return queue.get()


def _report(queue: Any, function: Callable, arguments: tuple, largest_file: int | None) -> None:
    if largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    try:
        found = function(*arguments)
    except FewstepError as error:
        found = f"{type(error).__name__}: {error}"
    queue.put(found)


def replace_in_all(monkeypatch, target: object, name: str, value: object) -> None:
    """`monkeypatch.setattr` for processes that are started later too."""
    monkeypatch.setattr(target, name, value)
    _replaced.append((target, name, value))


_replaced: list[tuple[object, str, object]] = []


class Gate:
    """Holds processes back until it is opened, so that they start at once."""

    def __init__(self, folder: Path):
        self.path = folder / "gate"
        self.handle = self.path.open("w")
        fcntl.flock(self.handle, fcntl.LOCK_EX)

    def __reduce__(self):
        return _Closed, (self.path,)

    def open(self) -> None:
        self.handle.close()


class _Closed:
    """The gate as another process sees it."""

    def __init__(self, path: Path):
        self.path = path

    def wait(self) -> None:
        with self.path.open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH)


class OtherProcess:
    """A process of its own that runs `action` and nothing else, with this one's environment.

    It is a fork of a server that has one thread. The tests' own process must not be forked: by then it has the threads
    of all that it has tested (gRPC's, S3's), and a child of it may end by SIGSEGV.
    """

    def __init__(self, action: Callable[[], object]):
        handle, self.path = tempfile.mkstemp()
        os.close(handle)
        replaced = [item for item in _replaced if vars(item[0]).get(item[1]) is item[2]]
        sent = cloudpickle.dumps((action, replaced, dict(os.environ)))
        self.process = context().Process(target=_in_other, args=(sent, self.path))
        self.process.start()

    def wait(self) -> tuple[int, str]:
        """Exit code (minus the signal's number for a killed one) and what it wrote to its terminal."""
        self.process.join()
        text = Path(self.path).read_text()
        os.unlink(self.path)
        return self.process.exitcode, text


def _in_other(sent: bytes, terminal: str) -> None:
    handle = os.open(terminal, os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    code = 1
    try:
        action, replaced, environment = cloudpickle.loads(sent)
        os.environ.clear()
        os.environ.update(environment)
        for target, name, value in replaced:
            setattr(target, name, value)
        action()
        code = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
