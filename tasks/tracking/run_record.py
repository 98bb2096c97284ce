"""What a run's record says: its settings, its attempts, its stages, what stopped it. Read by any process, any host."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from fewstep.util.config import Moment, Strict
from fewstep.util.errors import DataDiffers
from tasks.storage.code_state import CodeOrigin
from tasks.tracking.redaction import HIDDEN

FORMAT = 1
RUNNING, FINISHED, FAILED, CANCELLED, KILLED = "running", "finished", "failed", "cancelled", "killed"
UNFINISHED = (RUNNING, FAILED, CANCELLED, KILLED)
STOPPED, INTERRUPTED = "stopped", "interrupted"     # of stages: left by a process that died, by one that was cancelled


def now() -> str:
    """This moment in UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_between(start: str | None, end: str | None) -> float | None:
    """Seconds from one `now()` to another; None where one is missing."""
    if not start or not end:
        return None
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0, le=1e12)]
RunState = Literal["running", "finished", "failed", "cancelled", "killed"]
StageState = Literal["waiting", "running", "current", "restored", "made", "failed", "interrupted", "stopped"]


def settings_digest(settings: dict) -> str:
    """SHA-256 of the resolved settings: runs with the same one are the same experiment."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class _Record(Strict):
    """A part of the run's record: validated when it is read; the run itself changes it in place."""

    model_config = ConfigDict(frozen=False, allow_inf_nan=True)  # a metric may be NaN


class StageRecord(_Record):
    """One stage of a run; times in UTC. `interrupted`: by a signal; `stopped`: its process died."""

    state: StageState = "waiting"
    key: str | None = None
    digest: str | None = None
    done: Count = 0
    total: Count = 0
    unit: str = "images"
    started: Moment | None = None
    ended: Moment | None = None
    seconds: Seconds = 0.0        # over all attempts
    error: str | None = None
    note: str | None = None     # what it is doing beside its progress: for whom it waits, what it shared
    warnings: list[str] = Field(default_factory=list)
    metrics: dict[str, float] = Field(default_factory=dict)

    def stop(self, state: str, moment: str) -> None:
        """The stage is in `state` from `moment` on; the time since its start is added."""
        if self.state == RUNNING:
            self.seconds += max(0.0, seconds_between(self.started, moment) or 0.0)
        self.state, self.ended = state, moment


class AttemptRecord(_Record):
    """One process's work on a run. `state` is how it ended; None while it works or when it was killed. `owner` names
    the repository on that host (tasks.storage.sharing.host)."""

    pid: int
    host: str
    owner: str | None = None
    started: Moment
    ended: Moment | None = None
    state: RunState | None = None


class RunError(_Record):
    """What stopped a run: the stage, the error's class, message and hint, and the command that continues."""

    stage: str | None = None
    kind: str | None = None
    message: str
    hint: str | None = None
    command: str | None = None


class RunRecord(_Record):
    """A run: `settings` as frozen at its start, `root` the workspace it works in (a worktree when `isolated`)."""

    id: str
    name: str
    root: str
    settings: dict[str, Any]
    settings_digest: str
    created: Moment
    format: int = FORMAT
    state: RunState = RUNNING
    isolated: bool = False
    origin: str | None = None       # what started it: a schedule's name; None for a person
    commit: str | None = None       # of the workspace; for an isolated run what its worktree is made of
    modified: bool = False          # tracked files differed from `commit`'s parent: the diff lies in the run's folder
    code: CodeOrigin | None = None  # of code that lies apart; None: the workspace's commit is that of the code too
    attempts: list[AttemptRecord] = Field(default_factory=list)
    updated: Moment | None = None
    ended: Moment | None = None
    mlflow: dict[str, str] = Field(default_factory=dict)
    prefect: dict[str, str] = Field(default_factory=dict)
    stages: dict[str, StageRecord] = Field(default_factory=dict)
    error: RunError | None = None

    @property
    def resume_command(self) -> str:
        return f"fewstep resume {self.id}"

    def stop(self, state: str, moment: str) -> None:
        """The attempt has ended in `state`; stages that it left running are `stopped`, or `interrupted` by who
        cancelled it."""
        self.stop_stages(moment, INTERRUPTED if state == CANCELLED else STOPPED)
        self.state, self.ended = state, moment
        if self.attempts:
            self.attempts[-1].ended, self.attempts[-1].state = moment, state

    def stop_stages(self, moment: str, state: str) -> None:
        """Stages that a dead or ended attempt left running get this state; the time they took is kept."""
        for stage in self.stages.values():
            if stage.state == RUNNING:
                stage.stop(state, moment)


def require_true(record: RunRecord, run: str, text: str, source: str | Path) -> None:
    """Raises DataDiffers where the record, read from `text` in `source`, is not that of `run`, or its settings are not
    those that it was made with."""
    if record.id != run:
        raise DataDiffers(f"{source}: id: the record is of another run, {record.id[:80]!r}")
    # what was redacted is not what was digested
    if HIDDEN not in text and settings_digest(record.settings) != record.settings_digest:
        raise DataDiffers(f"{source}: settings: they were altered, for their digest is another")
