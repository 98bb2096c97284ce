"""Stages that do not read each other at once: one in this thread, another beside it, each after those it reads."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

R = TypeVar("R")


class SideBySide(Generic[R]):
    """Works through stages in two threads.

    The calling thread takes the first stage, in their order, that can begin; the other one the first that can begin
    beside it. After a failure no further stage begins, and the one under way is finished first: its work is kept.

    Args:
        reads: by stage, in their order, the stages that it reads; those that are not named here are there already.
    """

    def __init__(self, reads: Mapping[str, Sequence[str]]):
        self._reads = {name: [one for one in read if one in reads] for name, read in reads.items()}
        self._changed = threading.Condition()
        self._begun: set[str] = set()
        self._busy = False      # the calling thread has a stage under way
        self._results: dict[str, R] = {}
        self._errors: list[BaseException] = []

    def run(self, here: Callable[[str], R], beside: Callable[[str], R], stop: Callable[[], None]) -> dict[str, R]:
        """What the calls returned, by stage, in the order of the stages.

        Args:
            here: does a stage in this thread. beside: does one in the other.
            stop: has `beside` end early; called when this thread is told to end, by a signal.

        Raises the first error of a stage, after the other one has ended.
        """
        context = contextvars.copy_context()    # Prefect knows by it which flow a task belongs to
        other = threading.Thread(target=context.run, args=(self._work, beside, False), name="stage-beside", daemon=True)
        other.start()
        try:
            self._work(here, True)
            other.join()
        except BaseException as told:
            self._fail(told)
            stop()
            other.join()
            raise
        if self._errors:
            raise self._errors[0]
        return {name: self._results[name] for name in self._reads}

    def _work(self, do: Callable[[str], R], first: bool) -> None:
        while (name := self._next(first)) is not None:
            try:
                result = do(name)
            except BaseException as error:
                if first and not isinstance(error, Exception):
                    raise
                self._fail(error)
                return
            with self._changed:
                self._results[name] = result
                self._busy = self._busy and not first
                self._changed.notify_all()

    def _next(self, first: bool) -> str | None:
        """The stage that this thread does next, waited for; None when there is no more."""
        with self._changed:
            while True:
                if self._errors or len(self._begun) == len(self._reads):
                    return None
                if first or self._busy:
                    for name, read in self._reads.items():
                        if name not in self._begun and all(one in self._results for one in read):
                            self._begun.add(name)
                            self._busy = self._busy or first
                            self._changed.notify_all()
                            return name
                self._changed.wait()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._errors.append(error)
            self._busy = False
            self._changed.notify_all()
