"""Run records: what a pipeline run is doing and has done, as one JSON file per run that any process may read.

The record is written by the run itself; a killed run cannot write that it died. So "running" is believed only while a
process holds the lock file beside the record: the kernel lets go of it at the process's death, whatever the cause.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from fewstep.util.config import nearest
from fewstep.util.errors import Busy, DataDiffers, NotAvailable, SettingsError
from tasks.engine.events import Observer
from tasks.storage.locks import held, said_by_holder
from tasks.tracking.redaction import redact

FORMAT = 1
RUNNING, FINISHED, FAILED, CANCELLED, KILLED = "running", "finished", "failed", "cancelled", "killed"
UNFINISHED = (RUNNING, FAILED, CANCELLED, KILLED)
WRITE_SECONDS = 2.0     # progress is written at most this often; states are written at once


def now() -> str:
    """This moment in UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_between(start: str | None, end: str | None) -> float | None:
    """Seconds from one `now()` to another; None where one is missing."""
    if not start or not end:
        return None
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def settings_digest(settings: dict) -> str:
    """SHA-256 of the resolved settings: runs with the same one are the same experiment."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass
class StageRecord:
    """One stage of a run. `state`: waiting, running, current, restored, made, failed or stopped; times in UTC."""

    state: str = "waiting"
    key: str | None = None
    digest: str | None = None
    done: int = 0
    total: int = 0
    unit: str = "images"
    started: str | None = None
    ended: str | None = None
    seconds: float = 0.0        # over all attempts
    error: str | None = None
    warnings: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class RunRecord:
    """A run: `settings` as frozen at its start, `root` the checkout it works in (a worktree when `isolated`)."""

    id: str
    name: str
    root: str
    settings: dict
    settings_digest: str
    created: str
    format: int = FORMAT
    state: str = RUNNING
    isolated: bool = False
    origin: str | None = None       # what started it: a schedule's name; None for a person
    commit: str | None = None       # of the code; for an isolated run what its worktree is made of
    modified: bool = False          # tracked files differed from `commit`'s parent: the diff lies in the run's folder
    attempts: list[dict] = field(default_factory=list)
    updated: str | None = None
    ended: str | None = None
    mlflow: dict = field(default_factory=dict)
    prefect: dict = field(default_factory=dict)
    stages: dict[str, StageRecord] = field(default_factory=dict)
    error: dict | None = None       # stage, kind, message, hint, command

    @property
    def resume_command(self) -> str:
        return f"fewstep resume {self.id}"

    def to_dict(self) -> dict:
        return asdict(self)


class RunStore:
    """All runs of a repository, whichever worktree they work in: `<shared>/runs/<id>.json`, and a folder for each."""

    def __init__(self, workspace):
        self.folder = Path(workspace.runs)
        self.root = Path(workspace.root)

    def path(self, run: str) -> Path:
        return self.folder / f"{run}.json"

    def folder_of(self, run: str) -> Path:
        """Logs, frozen params.yaml, diff of uncommitted changes."""
        return self.folder / run

    @staticmethod
    def new_id(name: str) -> str:
        """An id such as digits-20261121-115700-ab12 (the moment is in UTC)."""
        return f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"

    def new(self, settings: dict, *, run: str | None = None, **facts) -> RunRecord:
        """A fresh record, written to disk."""
        run = run or self.new_id(settings["name"])
        facts.setdefault("root", str(self.root))
        record = RunRecord(id=run, name=settings["name"], settings=settings, settings_digest=settings_digest(settings),
                           created=now(), **facts)
        self.folder_of(run).mkdir(parents=True, exist_ok=True)
        self.save(record)
        return record

    def save(self, record: RunRecord) -> None:
        """Atomically replaces the record's file."""
        from fewstep.util.files import write_atomically

        record.updated = now()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path(record.id), redact(json.dumps(record.to_dict(), indent=1, ensure_ascii=False)))

    def load(self, run: str) -> RunRecord:
        """Raises NotAvailable when there is no such run, DataDiffers when its record is not one of ours."""
        try:
            data = json.loads(self.path(run).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise NotAvailable(f"no run {run!r}", hint="`fewstep status --all` lists the runs") from None
        except ValueError as error:
            raise DataDiffers(f"{self.path(run)}: not readable as a run record: {error}") from None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise DataDiffers(f"{self.path(run)}: not a run record of format {FORMAT}")
        data["stages"] = {name: StageRecord(**stage) for name, stage in data["stages"].items()}
        return RunRecord(**data)

    def ids(self) -> list[str]:
        """All runs, newest first (by the moment in the id, so that names do not matter)."""
        found = [path.stem for path in self.folder.glob("*.json")] if self.folder.is_dir() else []
        return sorted(found, key=lambda run: run.rsplit("-", 3)[1:], reverse=True)

    def all(self) -> list[RunRecord]:
        return [self.load(run) for run in self.ids()]

    def find(self, text: str | None = None) -> RunRecord:
        """The run whose id is or begins with or ends with `text`; the newest for None.

        Raises NotAvailable without any run, SettingsError when `text` fits none or several.
        """
        ids = self.ids()
        if not ids:
            raise NotAvailable("no run yet", hint="start one with `fewstep run`")
        if text is None:
            return self.load(ids[0])
        fitting = [text] if text in ids else [run for run in ids if run.startswith(text) or run.endswith(text)]
        if len(fitting) == 1:
            return self.load(fitting[0])
        if fitting:
            raise SettingsError(f"{text!r} fits {len(fitting)} runs: {', '.join(fitting[:5])}",
                                hint="give more of the id")
        guess = nearest(text, ids)
        raise SettingsError(f"no run {text!r}" + (f"; did you mean {guess!r}?" if guess else ""),
                            hint="`fewstep status --all` lists the runs")

    def unfinished(self, digest: str, *, isolated: bool, root: str | None = None) -> RunRecord | None:
        """The newest run with these settings, if it did not finish and nobody works on it."""
        for run in self.ids():
            record = self.load(run)
            same_place = record.isolated == isolated and (root is None or record.root == root)
            if record.settings_digest == digest and same_place:
                return record if record.state in UNFINISHED and not self.alive(run) else None
        return None

    # liveness

    def lock_path(self, run: str) -> Path:
        return self.folder_of(run) / "alive.lock"

    def alive(self, run: str) -> bool:
        """True while a process works on the run: asked of the kernel, not of the record."""
        return said_by_holder(self.lock_path(run)) is not None

    def state(self, record: RunRecord) -> str:
        """The true state: `killed` for a record that says running while no process holds its lock."""
        return KILLED if record.state == RUNNING and not self.alive(record.id) else record.state

    @contextmanager
    def hold(self, record: RunRecord) -> Iterator[None]:
        """Work on the run: takes its lock and notes the attempt. Raises Busy when another process has it.

        What a person reads afterwards is what the caller stored with `close`; without that the run counts as killed.
        """
        busy = Busy(f"run {record.id} is being worked on by another process",
                    hint=f"`fewstep status {record.id}` shows how far it is")
        with held(self.lock_path(record.id), lambda said: busy):
            stop_open_stages(record)
            record.state, record.error, record.ended = RUNNING, None, None
            record.attempts.append({"pid": os.getpid(), "host": os.uname().nodename, "started": now(), "ended": None})
            self.save(record)
            yield

    def close(self, record: RunRecord, state: str, error: dict | None = None) -> None:
        """Stores how the attempt ended."""
        stop_open_stages(record)
        record.state, record.error, record.ended = state, error, now()
        if record.attempts:
            record.attempts[-1].update(ended=record.ended, state=state)
        self.save(record)

    def settle(self, record: RunRecord) -> bool:
        """Writes down that a dead run is dead (`fewstep reconcile`). True when there was something to write."""
        if self.state(record) != KILLED or record.state == KILLED:
            return False
        last = record.updated
        stop_open_stages(record, last)
        record.state, record.ended = KILLED, last
        if record.attempts:
            record.attempts[-1].update(ended=last, state=KILLED)
        self.save(record)
        return True


def stop_open_stages(record: RunRecord, moment: str | None = None) -> None:
    """Stages that a dead or ended attempt left running become `stopped`; the time they took is kept."""
    moment = moment or record.updated or now()
    for stage in record.stages.values():
        if stage.state == RUNNING:
            stage.seconds += max(0.0, seconds_between(stage.started, moment) or 0.0)
            stage.state, stage.ended = "stopped", moment


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

    def stage_started(self, stage, key):
        with self._lock:
            entry = self._stage(stage)
            if entry.key != key:
                entry.done = entry.total = 0
            entry.state, entry.key, entry.started, entry.ended, entry.error = RUNNING, key, now(), None, None
            self._save(at_once=True)

    def stage_progress(self, stage, done, total, unit="images", metrics=None, step=None):
        with self._lock:
            entry = self._stage(stage)
            entry.done, entry.total, entry.unit = int(done), int(total), unit
            entry.metrics.update({name: float(value) for name, value in (metrics or {}).items()})
            self._save(at_once=False)

    def stage_warned(self, stage, text):
        with self._lock:
            entry = self._stage(stage)
            if text not in entry.warnings:
                entry.warnings.append(text)
                self._save(at_once=True)

    def stage_aside(self, stage, folder):
        from tasks.storage.file_io import clone_or_copy, list_files

        kept = self.store.folder_of(self.record.id) / folder.name
        kept.mkdir(parents=True, exist_ok=True)
        for name in list_files(folder):
            (kept / name).unlink(missing_ok=True)
            clone_or_copy(folder / name, kept / name)

    def stage_finished(self, stage, outcome, cost):
        with self._lock:
            entry = self._stage(stage)
            entry.ended = now()
            if entry.state == RUNNING:
                entry.seconds += max(0.0, seconds_between(entry.started, entry.ended) or 0.0)
            entry.state, entry.error = outcome.state, None
            manifest = getattr(outcome, "manifest", None)
            if manifest is not None:
                entry.key, entry.digest = manifest.key, manifest.digest
            if entry.total:
                entry.done = entry.total
            self._save(at_once=True)

    def stage_failed(self, stage, error):
        with self._lock:
            entry = self._stage(stage)
            entry.ended = now()
            if entry.state == RUNNING:
                entry.seconds += max(0.0, seconds_between(entry.started, entry.ended) or 0.0)
            entry.state, entry.error = FAILED, str(error).splitlines()[0] if str(error) else type(error).__name__
            self._save(at_once=True)
