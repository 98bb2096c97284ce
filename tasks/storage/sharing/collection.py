"""Garbage is collected in the shared store by one host at a time; what is sent there meanwhile is sent once more.

DVC sends only what the store does not have yet. So a file that an output shares with garbage could be deleted between
the look and the announcement: whoever sends looks at the collectors' lease before and after.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from fewstep.util.errors import Busy
from tasks.storage.sharing.lease import Holder, Standing, look, take
from tasks.storage.sharing.lease_keeper import LeaseKeeper, kept

if TYPE_CHECKING:
    from tasks.storage.object_store import Store  # boto3

T = TypeVar("T")
LEASE = "collection"
PAUSE = 3.0     # seconds between two looks at a collector


@contextmanager
def collecting(store: Store, holder: Holder) -> Iterator[LeaseKeeper]:
    """The right to delete what nobody uses. Raises Busy naming the host that has it."""
    answer = take(store, LEASE, holder)
    if isinstance(answer, Standing):
        raise Busy(f"garbage is being collected there {answer.file.holder}", hint="try again when it has ended")
    with kept(answer) as keeper:
        yield keeper


def sent_whole(store: Store | None, send: Callable[[], T]) -> T:
    """What `send` returns, which sends outputs to the store and announces them; once more where garbage was collected
    meanwhile. Raises as `send` does, and as `look`."""
    while True:
        before = _collections(store)
        result = send()
        if before is not None and _collections(store) == before:
            return result
        while (found := _standing(store)) is not None and found.live:
            time.sleep(PAUSE)


def _collections(store: Store | None) -> int | None:
    """How many there were; None while there is one."""
    found = _standing(store)
    return 0 if found is None else None if found.live else found.file.epoch


def _standing(store: Store | None) -> Standing | None:
    return None if store is None else look(store, LEASE)
