"""Keeps a lease alive while its holder works: a thread that renews it, and says when it was lost."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from fewstep.util.errors import Busy, FewstepError
from tasks.storage.sharing.lease import Holder, Lease, LeaseLost, Standing, take

if TYPE_CHECKING:
    from tasks.storage.object_store import Store  # boto3

_LOOK = 2.0         # seconds between two looks at a lease that will lapse
_RENEWALS = 3       # in the time in which it would lapse


class LeaseKeeper:
    """Renews `lease` in the background. A store that does not answer is asked again: the lease may lapse meanwhile.

    Attributes:
        lease: what is kept.
        lost: why it is no longer ours; None while it is.
    """

    def __init__(self, lease: Lease):
        self.lease = lease
        self.lost: LeaseLost | None = None
        self._wake, self._ended = threading.Event(), False
        self._waiting: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._renewed, self._doubted = time.monotonic(), False
        self._thread = threading.Thread(target=self._keep, daemon=True, name=f"lease {lease.name}")
        self._thread.start()

    def say(self, *, at_once: bool = True, **content: Any) -> None:
        """Have these entries of the lease's content written, now or with the next renewal; one that is said again
        meanwhile replaces the first."""
        with self._lock:
            self._waiting.update(content)
        if at_once:
            self._wake.set()

    def require(self) -> None:
        """Raises LeaseLost when another host has taken it over; who slept beyond its time asks the store now."""
        overdue = time.monotonic() - self._renewed > self.lease.file.seconds
        if overdue and not self._doubted:
            self._doubted = True    # asked once: where it does not answer the thread asks on
            self._renew()
        if self.lost is not None:
            raise LeaseLost(str(self.lost), hint=self.lost.hint)

    def end(self) -> None:
        """Stop renewing it; what was said and not written goes with the next write of the lease."""
        self._ended = True
        self._wake.set()
        self._thread.join()

    def give_back(self, **content: Any) -> None:
        """End, and let others have it, with these entries of its content changed. One that is lost is lost; where the
        store does not answer it lapses."""
        self.end()
        if self.lost is None:
            with contextlib.suppress(FewstepError):
                self.lease.give_back(**{**self._waiting, **content})

    def _keep(self) -> None:
        interval = self.lease.file.seconds / _RENEWALS
        while not self._ended and self.lost is None:
            self._wake.wait(interval)
            self._wake.clear()
            if not self._ended:
                self._renew()

    def _renew(self) -> None:
        with self._lock:
            said, self._waiting = self._waiting, {}
        begun = time.monotonic()
        try:
            self.lease.renew(**said)
            self._renewed, self._doubted = begun, False
        except LeaseLost as lost:
            self.lost = lost
        except FewstepError:
            with self._lock:
                self._waiting = {**said, **self._waiting}


@contextlib.contextmanager
def kept(lease: Lease) -> Iterator[LeaseKeeper]:
    """Keep `lease` for the duration of the block, and give it back."""
    keeper = LeaseKeeper(lease)
    try:
        yield keeper
    finally:
        keeper.give_back()


@contextlib.contextmanager
def leased(store: Store | None, name: str, holder: Holder, busy: Busy,
           is_dead: Callable[[Holder], bool] = lambda holder: False) -> Iterator[LeaseKeeper | None]:
    """Keep the lease `name` for the duration of the block; the caller holds a file lock, so that no other process of
    this owner has it. Without a store that answers nothing is kept: one that is away must keep nobody from working.

    Args:
        store: that the hosts share; None where they share none.
        name: of the lease.
        holder: who asks.
        busy: is raised, with the holder in its message, while another host has it.
        is_dead: whether a holder is known to be dead: its lease is waited for.
    """
    answer: Lease | Standing | None = None
    try:
        while store is not None and isinstance(answer := take(store, name, holder, alone_here=True), Standing) \
                and is_dead(answer.file.holder):
            time.sleep(_LOOK)
    except Busy:
        raise
    except FewstepError:
        answer = None
    if isinstance(answer, Standing):
        raise type(busy)(f"{busy}: {answer.file.holder}", hint=busy.hint)
    if answer is None:
        yield None
        return
    with kept(answer) as keeper:
        yield keeper
