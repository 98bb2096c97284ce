"""How a stage's units of work are run under Prefect: independent ones as mapped tasks, rounds as tasks one by one.

Only names cross into Prefect (run, stage, unit): what a unit does is looked up in this process, so nothing is pickled,
hashed or stored on the way, and every task appears in Prefect's picture of the run under its own name.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from prefect import task, unmapped
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from fewstep.util.errors import FewstepError

MOST_TASKS = 200        # Prefect records every task; beyond this a task takes several units
RETRIES = 3
DELAY = 2.0             # seconds before the first retry, doubled for each further one
_TRANSIENT_ERRNO = {errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET,
                    errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EINTR, errno.ENETDOWN, errno.ENETUNREACH, errno.EPIPE,
                    errno.ESTALE, errno.ETIMEDOUT}
_TRANSIENT_NAMES = {"ConnectTimeout", "ConnectError", "ReadTimeout", "ReadError", "RemoteProtocolError", "PoolTimeout",
                    "EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError",
                    "IncompleteRead", "ProtocolError", "NewConnectionError"}


def is_transient(error: BaseException | None) -> bool:
    """Whether trying again may help: the network, a busy file or database. Never for an error of our own, such as bad
    settings, corrupt data, NaN or a full disk, and not for one that was already tried again."""
    if error is None or isinstance(error, FewstepError) or getattr(error, "tried_again", False):
        return False
    if isinstance(error, (ConnectionError, TimeoutError)) or type(error).__name__ in _TRANSIENT_NAMES:
        return True
    if isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNO:
        return True
    return "database is locked" in str(error)


def retry_if_transient(task: Any, run: Any, state: Any) -> bool:
    """Prefect's retry condition."""
    try:
        state.result()
    except BaseException as error:
        return is_transient(error)
    return False


RETRY = dict(retries=RETRIES, retry_delay_seconds=exponential_backoff(DELAY), retry_jitter_factor=0.3,
             retry_condition_fn=retry_if_transient)


@dataclass
class Work:
    """What the units of one running stage do; `stop` is set when one has failed or the run is being ended."""

    function: Callable[[str], None]
    stop: threading.Event = field(default_factory=threading.Event)


_WORK: dict[tuple[str, str], Work] = {}


@task(name="units", task_run_name="{stage}: {units}", cache_policy=NO_CACHE, persist_result=False, **RETRY)
def run_units(run: str, stage: str, units: str) -> int:
    """Runs the units of `stage` whose names `units` joins; returns how many. Idempotent, as the units are."""
    work = _WORK[(run, stage)]
    names = _GROUPS.get((run, stage, units), [units])
    for name in names:
        if work.stop.is_set():
            return 0
        try:
            work.function(name)
        except Exception as error:
            if not is_transient(error):
                work.stop.set()
            raise
    return len(names)


_GROUPS: dict[tuple[str, str, str], list[str]] = {}


@contextlib.contextmanager
def _one_thread_each(work: Work) -> Iterator[None]:
    """Units that run side by side compute with one thread each: several would fight for the same cores."""
    from fewstep.util.torch_threads import one_thread_each  # torch

    function = work.function
    with one_thread_each() as begin:

        def alone(unit: str) -> None:
            begin()
            function(unit)

        work.function = alone
        yield


class PrefectExecutor:
    """The `execute` that `tasks.engine.runner.run_stage` is given inside the flow."""

    def __init__(self, run: str, stage: str):
        self.run, self.stage = run, stage

    def __call__(self, function: Callable[[str], None], units: list[str], parallel: bool) -> None:
        """Runs `function(unit)` for every unit. Raises the first error, after the units under way have ended."""
        work = _WORK[(self.run, self.stage)] = Work(function)
        groups = self._groups(list(units))
        try:
            if parallel and len(groups) > 1:
                with _one_thread_each(work):
                    futures = run_units.map(unmapped(self.run), unmapped(self.stage), groups)
                    errors = [error for error in (self._error(future) for future in futures) if error is not None]
                if errors:
                    raise errors[0]
            else:
                for group in groups:
                    run_units(self.run, self.stage, group)
        except Exception as error:
            error.tried_again = True    # by the unit's own task: the stage's task need not do it all over
            raise
        finally:
            work.stop.set()
            for group in groups:
                _GROUPS.pop((self.run, self.stage, group), None)

    def _groups(self, units: list[str]) -> list[str]:
        size = -(-len(units) // MOST_TASKS)
        if size <= 1:
            return units
        names = []
        for first in range(0, len(units), size):
            part = units[first:first + size]
            names.append(f"{part[0]} … {part[-1]}")
            _GROUPS[(self.run, self.stage, names[-1])] = part
        return names

    @staticmethod
    def _error(future: Any) -> BaseException | None:
        try:
            future.result()
        except Exception as error:
            return error
        return None
