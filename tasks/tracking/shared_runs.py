"""Runs of all hosts, in the store that they share: the lease of a run holds its record and its params.yaml.

So who works on a run and how far it is stands in one object, which only its holder can change.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.util.errors import Busy
from tasks.engine.events import Observer
from tasks.storage.documents import validate_document
from tasks.storage.sharing.host import host_name, owner
from tasks.storage.sharing.lease import Holder, LeaseLost, Standing, look, names
from tasks.storage.sharing.lease_keeper import LeaseKeeper, leased
from tasks.storage.sharing.shared_store import shared_store
from tasks.storage.workspace import Workspace
from tasks.tracking.redaction import redact
from tasks.tracking.run_record import RunRecord, require_true

if TYPE_CHECKING:
    from tasks.storage.object_store import Store  # boto3

class RunTakenOver(Busy):
    """Another host goes on with the run: what this process would still say of it is no longer its to say."""


PREFIX = "runs/"
_AT_ONCE = 16       # requests


@dataclass(frozen=True)
class SharedRun:
    """A run as the shared store has it: its record, its params.yaml, and how its lease stands."""

    record: RunRecord
    params: str | None
    standing: Standing

    @property
    def holder(self) -> Holder | None:
        """Who works on it; None where nobody does."""
        return self.standing.file.holder if self.standing.live else None


class SharedRuns:
    """The runs of all hosts. Empty where hosts share no store; methods raise NotAvailable where it does not answer."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace

    @cached_property
    def _store(self) -> Store | None:
        return shared_store(self.workspace)

    def ids(self) -> list[str]:
        return [] if self._store is None else [name.removeprefix(PREFIX) for name in names(self._store, PREFIX)]

    def standing(self, run: str) -> Standing | None:
        """How the run's lease stands; None where no host ever shared it."""
        return None if self._store is None else look(self._store, PREFIX + run)

    def get(self, run: str) -> SharedRun | None:
        """None for a run that no host ever shared, or whose record is not there yet. Raises DataDiffers for a damaged
        one."""
        standing = self.standing(run)
        content = {} if standing is None else standing.file.content
        if "record" not in content:
            return None
        where = f"run {run} in the shared store"
        record = validate_document(RunRecord, content["record"], where)
        require_true(record, run, json.dumps(content["record"]), where)
        return SharedRun(record, content.get("params"), standing)

    def all(self) -> list[SharedRun]:
        """Every run, in no order."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return [run for run in pool.map(self.get, self.ids()) if run is not None]

    def keep_commit(self, run: str, bundle: Path, *, apart: bool) -> None:
        """Let other hosts have the commits that the run is made of, a git bundle; `apart`: those of the code that lies
        apart from the workspace."""
        if self._store is not None:
            self._store.upload(_bundle(run, apart), bundle)

    def fetch_commit(self, run: str, bundle: Path, *, apart: bool) -> bool:
        """Copy that bundle to the new file `bundle`; False where there is none."""
        if self._store is None or not self._store.names(_bundle(run, apart)):
            return False
        self._store.download(_bundle(run, apart), bundle)
        return True

    @contextmanager
    def held(self, run: str, busy: Busy) -> Iterator[RunSharer]:
        """Hold the run's lease; the caller holds its file lock. Without a store that answers nothing is shared.

        Raises `busy`, with the holder in its message, while another host works on it.
        """
        me = Holder(owner=owner(self.workspace), host=host_name(), pid=os.getpid(), run=run)
        with leased(self._store, PREFIX + run, me, busy) as keeper:
            yield RunSharer(keeper)


class RunSharer:
    """Tells the other hosts of a run that this process works on; without a lease nobody is told."""

    def __init__(self, keeper: LeaseKeeper | None):
        self._keeper, self._told = keeper, False

    def tell(self, record: RunRecord, params: str | None) -> None:
        """The run's record as it is now: at once for the first time, then with the next renewal."""
        if self._keeper is not None:
            text = redact(json.dumps(record.model_dump(), ensure_ascii=False))
            self._keeper.say(at_once=not self._told, record=json.loads(text), params=redact(params) if params else None)
            self._told = True

    def require(self) -> None:
        """Raises RunTakenOver when another host has taken the run over."""
        try:
            if self._keeper is not None:
                self._keeper.require()
        except LeaseLost as lost:
            raise RunTakenOver(str(lost), hint=lost.hint) from None


class WatchedRun(Observer):
    """Stops a run, at its next report, when another host has taken it over: who holds it now tells MLflow of it."""

    def __init__(self, sharer: RunSharer):
        self.sharer = sharer

    def stage_started(self, stage, key):
        self.sharer.require()

    def stage_progress(self, stage, done, total, unit="images", metrics=None, step=None):
        self.sharer.require()



def _bundle(run: str, apart: bool) -> str:
    return f"code/{run}{'-apart' * apart}.bundle"
