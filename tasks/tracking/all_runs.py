"""The runs of this host and, where hosts share a store, of all others: each once, as whoever knows most tells it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

from fewstep.util.errors import FewstepError, NotAvailable
from fewstep.util.files import write_atomically
from tasks.storage.sharing.host import owner
from tasks.storage.sharing.lease import Holder
from tasks.storage.workspace import Workspace
from tasks.tracking.run_record import KILLED, RUNNING, UNFINISHED, RunRecord
from tasks.tracking.run_records import RunStore, choose, newest_first
from tasks.tracking.shared_runs import SharedRun

_AT_ONCE = 16       # runs that are asked for; another host's is a request


@dataclass(frozen=True)
class KnownRun:
    """A run as it is known.

    Attributes:
        record: as it was written last, wherever.
        here: whether this host wrote that.
        alive: whether a process works on it.
        holder: which process of which host, where that is known.
        params: its params.yaml, where another host told it.
    """

    record: RunRecord
    here: bool
    alive: bool
    holder: Holder | None = None
    params: str | None = None

    @property
    def state(self) -> str:
        """The true state: `killed` for a record that says running while nobody works on it."""
        return KILLED if self.record.state == RUNNING and not self.alive else self.record.state

    @property
    def can_be_continued(self) -> bool:
        """Whether it finished nowhere, and nobody works on it."""
        return self.record.state in UNFINISHED and not self.alive

    @property
    def host(self) -> str | None:
        """The machine that works on it or did so last."""
        attempts = self.record.attempts
        return self.holder.host if self.holder else attempts[-1].host if attempts else None


class AllRuns:
    """Looks runs up. A shared store that does not answer is as if there were none: `problem` says so then."""

    def __init__(self, workspace: Workspace):
        self.workspace, self.store = workspace, RunStore(workspace)
        self.problem: str | None = None

    def ids(self) -> list[str]:
        """Of all runs, newest first."""
        return newest_first({*self.store.ids(), *self._shared_ids})

    def find(self, text: str | None = None) -> KnownRun:
        """The run whose id is or begins with or ends with `text`; the newest for None. Raises as `RunStore.find`."""
        return self.get(choose(self.ids(), text))

    def get(self, run: str) -> KnownRun:
        """The run of this id. Raises NotAvailable where nobody knows it."""
        return self._known(run, self._look_up(run) if run in self._shared_ids else None)

    def all(self) -> list[KnownRun]:
        """Every run, newest first."""
        try:
            shared = {run.record.id: run for run in self.store.shared.all()}
        except FewstepError as error:
            self.problem, shared = str(error), {}
        return [self._known(run, shared.get(run)) for run in newest_first({*self.store.ids(), *shared})]

    def page(self, number: int, size: int) -> tuple[list[KnownRun], int]:
        """Page `number` (from 1) of `size` runs, newest first, and how many there are in all: no other run is read."""
        ids = self.ids()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = list(pool.map(self._if_known, ids[(number - 1) * size : number * size]))
        return [known for known in found if known is not None], len(ids)

    def _if_known(self, run: str) -> KnownRun | None:
        """The run; None for one of another host where the store has stopped answering, which `problem` says."""
        try:
            return self.get(run)
        except NotAvailable:
            if self.problem is None:
                raise
            return None

    def newest_in(self, root: str, digest: str) -> KnownRun | None:
        """The newest run with these settings that worked in the checkout `root` of this host."""
        records = map(self.store.load, self.store.ids())
        return next((self.get(record.id) for record in records if record.settings_digest == digest
                     and not record.isolated and record.root == root), None)

    def newest_isolated(self, digest: str) -> KnownRun | None:
        """The newest isolated run with these settings, of any host: it is bound to no checkout."""
        return next((known for known in self.all() if known.record.settings_digest == digest
                     and known.record.isolated), None)

    def adopt(self, known: KnownRun) -> RunRecord:
        """Take a run that another host wrote of last into this host's records, to be continued in this checkout."""
        record = known.record
        if known.here:
            return record
        record = record.model_copy(update={"root": str(self.workspace.root)}, deep=True)
        if known.params is not None:
            write_atomically(self.store.folder_of(record.id) / "params.yaml", known.params)
        self.store.save(record)
        return record

    @cached_property
    def _shared_ids(self) -> frozenset[str]:
        try:
            return frozenset(self.store.shared.ids())
        except FewstepError as error:
            self.problem = str(error)
            return frozenset()

    def _look_up(self, run: str) -> SharedRun | None:
        try:
            return self.store.shared.get(run)
        except NotAvailable as error:
            self.problem = str(error)
            return None

    def _known(self, run: str, shared: SharedRun | None) -> KnownRun:
        alive_here = self.store.alive_here(run)     # first: what ends in order meanwhile is not taken for killed
        here = self.store.load(run) if self.store.path(run).exists() else None
        if shared is None:
            return KnownRun(here if here is not None else self.store.load(run), True, alive_here)
        holder = shared.holder
        ours = holder is not None and holder.owner == owner(self.workspace)
        if holder is not None and not ours:     # even if a process here sleeps on it still
            return KnownRun(shared.record, False, True, holder, shared.params)
        if here is not None and (alive_here or _place(here) >= _place(shared.record)):
            return KnownRun(here, True, alive_here, holder if alive_here else None)
        return KnownRun(shared.record, False, False, None, shared.params)


def _place(record: RunRecord) -> tuple[int, str]:
    """Orders the states of one record in time: attempts follow each other, within one the last writing counts."""
    return len(record.attempts), record.updated or ""
