"""Where the audit log of a model is kept: an interface, and the log as a file of this repository.

Hosts that share an MLflow server and an object store have one log there (tasks.registry.shared_record).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path

from fewstep.util.errors import CorruptData
from fewstep.util.files import write_atomically
from tasks.registry import audit_log
from tasks.registry.audit_log import Entry
from tasks.storage.documents import read_document

NAME = "record.jsonl"
DELIVERED = "delivered"


class Record(ABC):
    """An audit log: entries in one order, none of which is ever changed, and how many a webhook was told of."""

    @abstractmethod
    def read(self) -> list[Entry]:
        """All entries, oldest first. Raises DataDiffers naming place and field where one was damaged."""

    @abstractmethod
    def append(self, entry: Entry) -> Entry:
        """Writes `entry` behind all others before it returns; callers hold the model's lock.

        Returns the entry that stands there for it (`audit_log.standing`), which is `entry` itself unless there was one.
        Raises FewstepError when it would close a decision that is closed: of several writers at once one closes it.
        """

    @abstractmethod
    def delivered(self) -> int:
        """How many of the entries, from the first on, a webhook was told of. Raises CorruptData for no such number."""

    @abstractmethod
    def note_delivered(self, count: int) -> None:
        """Writes that down."""

    @abstractmethod
    def pass_over(self) -> None:
        """Nobody listens here: what was written so far need not be delivered later, unless somebody else does."""


class FileRecord(Record):
    """The log of this repository: one JSON line per entry in `folder`, synced."""

    def __init__(self, folder: Path):
        self.path, self._cursor = folder / NAME, folder / DELIVERED

    def read(self) -> list[Entry]:
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().splitlines(keepends=True)
        return [read_document(Entry, line, f"{self.path}, line {number}") for number, line in enumerate(lines, 1)
                if line.endswith(b"\n")]  # fmt: skip

    def append(self, entry: Entry) -> Entry:
        there = audit_log.standing(self.read(), entry)
        if there is not None:
            return there
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b") as file:
            file.seek(0)
            content = file.read()
            if content and not content.endswith(b"\n"):  # a line torn by a power cut was never acted upon
                file.truncate(content.rfind(b"\n") + 1)
            file.write(entry.to_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return entry

    def delivered(self) -> int:
        try:
            text = self._cursor.read_bytes()
        except FileNotFoundError:
            return 0
        return number_of_delivered(text, len(self.read()), str(self._cursor))

    def note_delivered(self, count: int) -> None:
        write_atomically(self._cursor, str(count))

    def pass_over(self) -> None:
        entries = self.read()
        if entries and self.delivered() != len(entries):
            self.note_delivered(len(entries))


def number_of_delivered(text: bytes, most: int, source: str) -> int:
    """The number in `text`, of at most so many entries. Raises CorruptData naming `source` for anything else."""
    try:
        count = int(text)
    except ValueError:
        count = -1
    if not 0 <= count <= most:
        raise CorruptData(f"{source}: no number of delivered entries, 0 to {most}",
                          hint="write the number of entries of the record that were delivered into it")
    return count
