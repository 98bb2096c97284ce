"""The audit log that all hosts of a project have in common, in the object store that they share.

The n-th entry is the object `records/<model>/<n>.json`, written by If-None-Match: of several hosts that write at once
one has the place, and the others look again at what stands before theirs. So all of them read one order, a decision is
closed once, and no entry is ever written over.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from fewstep.util.errors import DataDiffers
from tasks.registry import audit_log
from tasks.registry.audit_log import Entry
from tasks.registry.record import DELIVERED, Record, number_of_delivered
from tasks.storage.documents import read_document

if TYPE_CHECKING:
    from tasks.storage.object_store import Store  # boto3

_AT_ONCE = 16       # requests


class SharedRecord(Record):
    """The log `name` in `store`. Methods raise NotAvailable where the store does not answer."""

    def __init__(self, store: Store, name: str):
        self.name, self._store, self._folder = name, store, f"records/{name}"
        self._known: list[Entry] = []       # they never change

    def read(self) -> list[Entry]:
        names = [name for name in self._store.names(f"{self._folder}/") if name.endswith(".json")]
        expected = [self._name(number) for number in range(1, len(names) + 1)]
        if names != expected:
            lost = next(name for name, found in zip(expected, names, strict=True) if name != found)
            raise DataDiffers(f"the record in the shared store has lost an entry: {lost} is missing",
                              hint="bring the object back from a backup or an older version of it")
        known = self._known
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            entries = [*known, *pool.map(self._entry, names[len(known):])]
        self._known = entries
        return list(entries)

    def append(self, entry: Entry) -> Entry:
        while True:
            entries = self.read()
            there = audit_log.standing(entries, entry)
            if there is not None:
                return there
            if self.write_behind(entries, entry):
                return entry

    def write_behind(self, entries: list[Entry], entry: Entry) -> bool:
        """Writes `entry` if these `entries` are all there are. Of many hosts at once one gets True."""
        return self._store.put_if_absent(self._name(len(entries) + 1), entry.to_json().encode())

    def delivered(self) -> int:
        text = self._store.find(self._cursor)
        return 0 if text is None else number_of_delivered(text, len(self.read()), self._cursor)

    def note_delivered(self, count: int) -> None:
        """What another host delivered meanwhile is not taken back."""
        there = self._store.look(self._cursor)
        while there is None or int(there.data) < count:
            if self._store.write_if(self._cursor, str(count).encode(), there.etag if there is not None else None):
                return
            there = self._store.look(self._cursor)

    def pass_over(self) -> None:
        """Another host may have somebody who listens."""

    @property
    def _cursor(self) -> str:
        return f"{self._folder}/{DELIVERED}"

    def _entry(self, name: str) -> Entry:
        return read_document(Entry, self._store.read(name), f"{name} in the shared store")

    def _name(self, number: int) -> str:
        return f"{self._folder}/{number:08d}.json"
