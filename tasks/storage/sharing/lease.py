"""Leases: which host works on what, as one object each in the store that the hosts share.

A lease is taken, renewed and given back by compare-and-swap (If-Match), so of many hosts one has it. It lapses when its
holder has not renewed it for `seconds`, by the store's own clock: no host's clock is trusted. Who slept through the end
of its lease finds on waking that its next write is refused (`LeaseLost`), whatever it meant to write: what hosts must
not overwrite for each other stands in the lease's own `content`.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import Field

from fewstep.util.config import Strict
from fewstep.util.errors import Busy
from tasks.storage.documents import read_document

if TYPE_CHECKING:
    from tasks.storage.object_store import Store  # boto3

SECONDS = "FEWSTEP_LEASE_SECONDS"
"""Environment variable: how long a lease lasts without being renewed; default 60."""
_CLOCK = 1.0        # seconds; the store tells times to the second
_TRIES = 5          # to take a lease that others take and leave meanwhile


class LeaseLost(Busy):
    """Another host has taken the lease over."""


class Holder(Strict):
    """Who holds a lease: `owner` (tasks.storage.sharing.host), machine, process, and the run that it works on."""

    owner: str
    host: str
    pid: int
    run: str | None = None

    def __str__(self) -> str:
        run = f"run {self.run} " if self.run else ""
        return f"{run}on {self.host} (process {self.pid})"


class LeaseFile(Strict):
    """A lease as it is stored.

    Attributes:
        token: secret of the holder, so that two processes of one host are told apart; None: nobody holds it.
        epoch: how often it was taken.
        beat: counts writes, so that no two are equal.
        seconds: after which it lapses.
        holder: who holds it, or held it last.
        content: what the holder says; it passes to the next one.
    """

    format: int = 1
    token: str | None
    epoch: int
    beat: int
    seconds: float
    holder: Holder
    content: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Standing:
    """A lease as it was found.

    Attributes:
        file: what is stored.
        etag: of that.
        age: seconds since it was written.
    """

    file: LeaseFile
    etag: str
    age: float

    @property
    def live(self) -> bool:
        """Whether somebody holds it: it is neither given back nor lapsed."""
        return self.file.token is not None and self.age <= self.file.seconds + _CLOCK


def duration() -> float:
    """Seconds for which a lease holds without being renewed."""
    return float(os.environ.get(SECONDS, 60))


def look(store: Store, name: str) -> Standing | None:
    """The lease `name`; None where nobody ever took it.

    Raises NotAvailable, and DataDiffers for one that is damaged.
    """
    there = store.look(_path(name))
    if there is None:
        return None
    return Standing(read_document(LeaseFile, there.data, _path(name)), there.etag, there.age)


def names(store: Store, prefix: str) -> list[str]:
    """Names of all leases that begin with `prefix`, sorted."""
    start, end = len(_path("").removesuffix(".json")), len(".json")
    return [name[start:-end] for name in store.names(f"leases/{prefix}")]


def take(store: Store, name: str, holder: Holder, *, alone_here: bool = False) -> Lease | Standing:
    """Take the lease `name`, unless somebody holds it: then how it stands is returned.

    Args:
        store: that the hosts share.
        name: of the lease.
        holder: who asks.
        alone_here: a file lock says that no other process of this owner works on it, so a lease of this owner is that
            of a dead process.

    Raises:
        NotAvailable: the store does not answer.
    """
    for _ in range(_TRIES):
        found = look(store, name)
        if found is not None and found.live and not (alone_here and found.file.holder.owner == holder.owner):
            return found
        former = found.file if found is not None else None
        file = LeaseFile(token=secrets.token_hex(8), epoch=former.epoch + 1 if former else 1, beat=0,
                         seconds=duration(), holder=holder, content=former.content if former else {})
        etag = store.write_if(_path(name), _dump(file), found.etag if found is not None else None)
        if etag is not None:
            return Lease(store, name, file, etag)
    raise Busy(f"the lease {name} changed hands {_TRIES} times while it was asked for", hint="try again")


@dataclass
class Lease:
    """A lease that this process holds, until `give_back`. Any thread may call.

    Attributes:
        store, name: where it is.
        file: as it was written last.
    """

    store: Store
    name: str
    file: LeaseFile
    _etag: str
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def renew(self, **content: Any) -> None:
        """Write it anew, with these entries of its content changed; an entry None is removed.

        Raises LeaseLost when another host has taken it over, NotAvailable when the store does not answer.
        """
        with self._lock:
            self._write(self._changed(content))

    def give_back(self, **content: Any) -> None:
        """Nobody holds it from here on. Raises as `renew` does."""
        with self._lock:
            self._write(self._changed(content).model_copy(update={"token": None}))

    def _changed(self, content: dict[str, Any]) -> LeaseFile:
        merged = {name: value for name, value in {**self.file.content, **content}.items() if value is not None}
        return self.file.model_copy(update={"beat": self.file.beat + 1, "content": merged})

    def _write(self, file: LeaseFile) -> None:
        etag = self.store.write_if(_path(self.name), _dump(file), self._etag)
        if etag is None:
            found = look(self.store, self.name)
            who = f" by {found.file.holder}" if found is not None else ""
            raise LeaseLost(f"{self.name} was taken over{who}: this process was not heard of for "
                            f"{self.file.seconds:.0f} s", hint="`fewstep status` shows who holds it")
        self.file, self._etag = file, etag


def _path(name: str) -> str:
    return f"leases/{name}.json"


def _dump(file: LeaseFile) -> bytes:
    return json.dumps(file.model_dump(), sort_keys=True).encode()
