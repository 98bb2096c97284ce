"""One maker for each key: who wants a key that another process or host is making waits for it.

Within a host a file lock says who lives; between hosts it is the lease of the key in the shared store. Nothing depends
on it but time: two that make one key at once make the same bytes, and both are welcome.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fewstep.util.errors import Busy, FewstepError
from tasks.engine import publish
from tasks.engine.events import Observer
from tasks.storage.locks import held
from tasks.storage.sharing.host import host_name, owner
from tasks.storage.sharing.lease import Holder, Lease, Standing, look, take
from tasks.storage.sharing.lease_keeper import LeaseKeeper
from tasks.storage.sharing.shared_store import shared_store
from tasks.storage.sharing.shared_work import SharedWork
from tasks.storage.workspace import Workspace

PAUSE = 0.5                 # seconds between two looks at a process of this host
FAR_PAUSE = 3.0             # and at another host


@dataclass(frozen=True)
class Wanted:
    """The key that a process wants to have made.

    Attributes:
        workspace: where.
        stage, key: what.
        run: the pipeline run that it is wanted for; None outside one.
        observer: is told of waiting.
    """

    workspace: Workspace
    stage: str
    key: str
    run: str | None
    observer: Observer

    @property
    def lease(self) -> str:
        """Name of the key's lease."""
        return f"keys/{self.key}"

    def note(self, text: str) -> None:
        self.observer.stage_noted(self.stage, text)

    def warn(self, text: str) -> None:
        self.observer.stage_warned(self.stage, text)


class Claim:
    """The right to make a key, until the block ends. Without a store that hosts share it holds within this host.

    Attributes:
        there: whether the output is there instead: another has made it.
    """

    def __init__(self, wanted: Wanted, keeper: LeaseKeeper | None, *, there: bool = False):
        self.there = there
        self._wanted, self._keeper, self._shared = wanted, keeper, None
        if keeper is not None:
            self._shared = SharedWork(keeper.lease.store, wanted.key, keeper, wanted.note, wanted.warn)

    def require(self) -> None:
        """Raises LeaseLost when another host has taken the key over."""
        if self._keeper is not None:
            self._keeper.require()

    @contextmanager
    def working_in(self, work: Path) -> Iterator[None]:
        """Work in the folder `work`, from what another host left, and share what is unfinished: every so often, and at
        the end of the block when an error or a signal ends it."""
        shared = self._shared
        if shared is None:
            yield
            return
        shared.bring(work, publish.trash(self._wanted.workspace))
        shared.start(work)
        try:
            yield
        except BaseException:
            shared.stop()
            shared.upload(work)
            raise
        shared.stop()

    def finished(self) -> None:
        """The output can be had without this host: what was shared of the work may go."""
        if self._shared is not None:
            self._shared.forget()
            self._keeper.say(work=None, at_once=False)


class Watched(Observer):
    """Stops the work, at its next report of progress, when another host has taken the key over."""

    def __init__(self, claim: Claim):
        self.claim = claim

    def stage_progress(self, stage, done, total, unit="images", metrics=None, step=None):
        self.claim.require()


@contextmanager
def claimed(wanted: Wanted, is_here: Callable[[], bool], is_there: Callable[[], bool]) -> Iterator[Claim]:
    """Hold the right to make a key; waits, and says for whom, while another makes it.

    Args:
        wanted: the key.
        is_here: whether the output can be had by now from another process of this host.
        is_there: whether it can be had from whatever host; asked more rarely.
    """
    with ExitStack() as stack:
        yield _claim(wanted, is_here, is_there, stack)


def _claim(wanted: Wanted, is_here: Callable[[], bool], is_there: Callable[[], bool], stack: ExitStack) -> Claim:
    there = Claim(wanted, None, there=True)
    if is_there():
        return there
    said = None
    while (who := _lock_here(wanted, stack)) is not None:
        said = _say(wanted, who, said)
        time.sleep(PAUSE)
        if is_here():
            return there
    while isinstance(answer := _lease(wanted), Standing):
        said = _say(wanted, str(answer.file.holder), said)
        time.sleep(FAR_PAUSE)
        if is_there():
            return there
    if answer is None:      # no other host to ask
        return there if is_here() else Claim(wanted, None)
    keeper = LeaseKeeper(answer)
    stack.callback(keeper.give_back)
    return there if is_there() else Claim(wanted, keeper)   # finished and given back since it was asked for


def _say(wanted: Wanted, who: str, said: str | None) -> str:
    if who != said:
        wanted.note(f"{who} is making it: waiting")
    return who


class _Elsewhere(Exception):
    """Another process of this host holds the key."""


def _lock_here(wanted: Wanted, stack: ExitStack) -> str | None:
    """Take the key within this host until `stack` ends; who has it, in words, if another process does."""
    me = Holder(owner="", host=host_name(), pid=os.getpid(), run=wanted.run)

    def busy(facts: dict) -> _Elsewhere:
        return _Elsewhere(str(Holder(**facts)) if facts else "another process")

    try:
        lock = stack.enter_context(held(wanted.workspace.shared / "making" / wanted.key, busy))
    except _Elsewhere as elsewhere:
        return str(elsewhere)
    lock.say(me.model_dump())
    return None


def _lease(wanted: Wanted) -> Lease | Standing | None:
    """The key's lease, or how it stands with another host; None where hosts share no store, or it does not answer."""
    try:
        store = shared_store(wanted.workspace)
        if store is None:
            return None
        me = Holder(owner=owner(wanted.workspace), host=host_name(), pid=os.getpid(), run=wanted.run)
        return take(store, wanted.lease, me, alone_here=True)
    except Busy:
        return look(store, wanted.lease)
    except FewstepError as error:
        wanted.warn(f"whether another host makes it could not be learnt: {error}")
        return None
