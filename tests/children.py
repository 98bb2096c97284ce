"""Processes that tests may kill or starve: forked from a server that has loaded torch once."""

import multiprocessing
import resource
import signal
from collections.abc import Callable
from typing import Any

from fewstep.util.errors import FewstepError

_PRELOAD = ["tests.fewstep.trajectories.making"]


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
