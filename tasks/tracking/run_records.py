"""Run records: what a pipeline run is doing and has done, as one JSON file per run that any process may read.

The record is written by the run itself; a killed run cannot write that it died. So "running" is believed only while a
process holds the lock file beside the record: the kernel lets go of it at the process's death, whatever the cause.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.util.config import nearest
from fewstep.util.errors import Busy, DataDiffers, FewstepError, NotAvailable, SettingsError
from fewstep.util.files import write_atomically
from tasks.engine.events import Observer
from tasks.storage.documents import read_document
from tasks.storage.file_io import clone_or_copy, list_files
from tasks.storage.locks import held, said_by_holder
from tasks.storage.sharing.host import host_name, owner
from tasks.storage.sharing.lease import Standing
from tasks.storage.workspace import Workspace
from tasks.tracking.redaction import redact
from tasks.tracking.run_record import (
    FAILED,
    INTERRUPTED,
    KILLED,
    RUNNING,
    STOPPED,
    AttemptRecord,
    RunError,
    RunRecord,
    StageRecord,
    now,
    require_true,
    settings_digest,
)
from tasks.tracking.shared_runs import RunSharer, SharedRuns

if TYPE_CHECKING:
    from tasks.engine.events import Outcome

WRITE_SECONDS = 2.0     # progress is written at most this often; states are written at once


def newest_first(runs: Iterable[str]) -> list[str]:
    """Ids of runs by the moment in them, so that names do not matter."""
    return sorted(runs, key=lambda run: run.rsplit("-", 3)[1:], reverse=True)


def choose(ids: list[str], text: str | None) -> str:
    """The one of `ids` that is or begins with or ends with `text`; the first for None.

    Raises NotAvailable where there is no run at all, SettingsError when `text` fits none or several.
    """
    if not ids:
        raise NotAvailable("no run yet", hint="start one with `fewstep run`")
    if text is None:
        return ids[0]
    fitting = [text] if text in ids else [run for run in ids if run.startswith(text) or run.endswith(text)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise SettingsError(f"{text!r} fits {len(fitting)} runs: {', '.join(fitting[:5])}", hint="give more of the id")
    guess = nearest(text, ids)
    raise SettingsError(f"no run {text!r}" + (f"; did you mean {guess!r}?" if guess else ""),
                        hint="`fewstep status --all` lists the runs")


class RunStore:
    """All runs of a repository, whichever worktree they work in: `<shared>/runs/<id>.json`, and a folder for each."""

    def __init__(self, workspace: Workspace):
        self.workspace, self.folder, self.root = workspace, workspace.runs, workspace.root
        self.shared = SharedRuns(workspace)
        self._sharers: dict[str, RunSharer] = {}    # of the runs that this object holds

    def path(self, run: str) -> Path:
        return self.folder / f"{run}.json"

    def folder_of(self, run: str) -> Path:
        """Logs, frozen params.yaml, diff of uncommitted changes."""
        return self.folder / run

    @staticmethod
    def new_id(name: str) -> str:
        """An id such as digits-20261121-115700-ab12 (the moment is in UTC)."""
        return f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"

    def new(self, settings: dict[str, Any], *, run: str | None = None, **facts: Any) -> RunRecord:
        """A fresh record with `facts` as further fields, written to disk."""
        run = run or self.new_id(settings["name"])
        facts.setdefault("root", str(self.root))
        record = RunRecord(id=run, name=settings["name"], settings=settings, settings_digest=settings_digest(settings),
                           created=now(), **facts)
        self.folder_of(run).mkdir(parents=True, exist_ok=True)
        self.save(record)
        return record

    def save(self, record: RunRecord) -> None:
        """Atomically replaces the record's file."""
        record.updated = now()
        write_atomically(self.path(record.id), redact(json.dumps(record.model_dump(), indent=1, ensure_ascii=False)))
        if record.id in self._sharers:
            params = self.folder_of(record.id) / "params.yaml"
            self._sharers[record.id].tell(record, params.read_text() if params.is_file() else None)

    def load(self, run: str) -> RunRecord:
        """Raises NotAvailable where there is no such run, DataDiffers for a damaged record or another format."""
        path = self.path(run)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            raise NotAvailable(f"no run {run!r}", hint="`fewstep status --all` lists the runs") from None
        except OSError as error:
            raise DataDiffers(f"{path}: not readable: {error.strerror}") from None
        record = read_document(RunRecord, text, path)
        require_true(record, run, text.decode(errors="replace"), path)
        return record

    def ids(self) -> list[str]:
        """All runs, newest first."""
        return newest_first(path.stem for path in self.folder.glob("*.json"))

    def all(self) -> list[RunRecord]:
        return [self.load(run) for run in self.ids()]

    def find(self, text: str | None = None) -> RunRecord:
        """The run whose id is or begins with or ends with `text`; the newest for None. Raises as `choose` does."""
        return self.load(choose(self.ids(), text))

    # liveness

    def lock_path(self, run: str) -> Path:
        return self.folder_of(run) / "alive.lock"

    def alive(self, run: str) -> bool:
        """True while a process works on the run: asked of the kernel, and of the store that hosts share. Where that
        does not answer, only this host is known."""
        if self.alive_here(run):
            return True
        try:
            standing = self.shared.standing(run)
        except FewstepError:
            return False
        return standing is not None and standing.live and not self._is_ours(standing)

    def abandoned(self, run: str) -> bool:
        """Whether it is certain that nobody works on the run, so that its end may be written down for it.

        That is so for a run of this host whose lock is free, and for one of another host whose lease is given back or
        lapsed. Of a run that is neither nothing is certain. Raises NotAvailable where the shared store does not answer.
        """
        if self.alive_here(run):
            return False
        standing = self.shared.standing(run)
        if standing is not None:
            return not standing.live or self._is_ours(standing)
        if not self.path(run).exists():
            return False
        attempts = self.load(run).attempts
        return not attempts or attempts[-1].owner in (None, owner(self.workspace))

    def alive_here(self, run: str) -> bool:
        """Whether a process of this host works on the run."""
        return said_by_holder(self.lock_path(run)) is not None

    def _is_ours(self, standing: Standing) -> bool:
        """Whether the lease is that of a process of this host, whose lock tells more."""
        return standing.file.holder.owner == owner(self.workspace)

    def state(self, record: RunRecord) -> str:
        """The true state: `killed` for a record that says running while no process works on it."""
        return KILLED if record.state == RUNNING and not self.alive(record.id) else record.state

    @contextmanager
    def hold(self, record: RunRecord) -> Iterator[RunSharer]:
        """Work on the run: takes its lock and its lease and notes the attempt. Yields what tells the other hosts.

        Raises Busy when another process has it. What a person reads afterwards is what the caller stored with `close`;
        without that the run counts as killed.
        """
        busy = Busy(f"run {record.id} is being worked on by another process",
                    hint=f"`fewstep status {record.id}` shows how far it is")
        with held(self.lock_path(record.id), lambda holder: busy), self.shared.held(record.id, busy) as sharer:
            record.stop_stages(record.updated or now(), STOPPED)
            record.state, record.error, record.ended = RUNNING, None, None
            record.attempts.append(AttemptRecord(pid=os.getpid(), host=host_name(), owner=owner(self.workspace),
                                                 started=now()))
            self._sharers[record.id] = sharer
            try:
                self.save(record)
                yield sharer
            finally:
                del self._sharers[record.id]

    def close(self, record: RunRecord, state: str, error: RunError | None = None) -> None:
        """Stores how the attempt ended."""
        record.stop(state, now())
        record.error = error
        self.save(record)

    def settle(self, record: RunRecord) -> bool:
        """Writes down that a dead run is dead (`fewstep reconcile`). True when there was something to write.

        Raises NotAvailable where the shared store does not answer: another host may have continued the run.
        """
        if record.state != RUNNING or not self.abandoned(record.id):
            return False
        record = self.load(record.id)
        if record.state != RUNNING:     # it ended in order before it was certain that nobody works on it
            return False
        record.stop(KILLED, record.updated or now())
        self.save(record)
        return True


class RecordObserver(Observer):
    """Writes what the stages report into the run's record. Safe to call from several threads."""

    def __init__(self, store: RunStore, record: RunRecord):
        self.store, self.record = store, record
        self._lock = threading.RLock()
        self._written = 0.0

    def _stage(self, name: str) -> StageRecord:
        return self.record.stages.setdefault(name, StageRecord())

    def _save(self, *, at_once: bool) -> None:
        moment = time.monotonic()
        if at_once or moment - self._written >= WRITE_SECONDS:
            self._written = moment
            self.store.save(self.record)

    def stage_started(self, stage: str, key: str) -> None:
        with self._lock:
            entry = self._stage(stage)
            if entry.key != key:
                entry.done = entry.total = 0
            entry.state, entry.key, entry.started, entry.ended, entry.error = RUNNING, key, now(), None, None
            self._save(at_once=True)

    def stage_progress(self, stage: str, done: int, total: int, unit: str = "images",
                       metrics: dict[str, float] | None = None, step: int | None = None) -> None:
        with self._lock:
            entry = self._stage(stage)
            entry.done, entry.total, entry.unit = int(done), int(total), unit
            entry.metrics.update({name: float(value) for name, value in (metrics or {}).items()})
            self._save(at_once=False)

    def stage_warned(self, stage: str, text: str) -> None:
        with self._lock:
            entry = self._stage(stage)
            if text not in entry.warnings:
                entry.warnings.append(text)
                self._save(at_once=True)

    def stage_noted(self, stage: str, text: str) -> None:
        with self._lock:
            self._stage(stage).note = text
            self._save(at_once=True)

    def stage_aside(self, stage: str, folder: Path) -> None:
        """Keeps a copy of the folder beside the record: the next run replaces the folder itself."""
        kept = self.store.folder_of(self.record.id) / folder.name
        for name in list_files(folder):
            (kept / name).parent.mkdir(parents=True, exist_ok=True)
            (kept / name).unlink(missing_ok=True)
            clone_or_copy(folder / name, kept / name)

    def stage_finished(self, stage: str, outcome: Outcome, cost: dict) -> None:
        with self._lock:
            entry = self._stage(stage)
            entry.stop(outcome.state, now())
            entry.note, entry.error, entry.key, entry.digest = None, None, outcome.manifest.key, outcome.manifest.digest
            if entry.total:
                entry.done = entry.total
            self._save(at_once=True)

    def stage_failed(self, stage: str, error: BaseException) -> None:
        with self._lock:
            entry = self._stage(stage)
            entry.stop(FAILED, now())
            entry.error = str(error).splitlines()[0] if str(error) else type(error).__name__
            self._save(at_once=True)

    def stage_interrupted(self, stage: str) -> None:
        with self._lock:
            self._stage(stage).stop(INTERRUPTED, now())
            self._save(at_once=True)
