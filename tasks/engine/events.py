"""What a run tells whoever listens: the terminal, the run record, MLflow. Methods not overridden do nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fewstep.util.errors import FewstepError
from tasks.engine.manifest import Manifest
from tasks.tracking.log_place import working_on


@dataclass(frozen=True)
class Outcome:
    """How a stage ended.

    Attributes:
        state: `current` (nothing done), `restored` (from DVC's cache) or `made`.
        manifest: the output's.
        seconds: that it took.
        dvc_refused: why dvc.lock was left as it was although the result is valid; None when it was written.
    """

    state: Literal["current", "restored", "made"]
    manifest: Manifest
    seconds: float
    dvc_refused: str | None = None


class Observer:
    """One listener. Calls come from the process that runs the stage; progress may come from several of its threads."""

    def stage_started(self, stage: str, key: str) -> None:
        """A stage begins (or looks whether it has to)."""

    def stage_progress(self, stage: str, done: int, total: int, unit: str = "images",
                       metrics: dict[str, float] | None = None, step: int | None = None) -> None:
        """`done` of `total` `unit`; `metrics` belong to `step` (a stage's own counter, usually images seen)."""

    def stage_warned(self, stage: str, text: str) -> None:
        """Something a person should know that does not stop the stage."""

    def stage_noted(self, stage: str, text: str) -> None:
        """What the stage is doing beside its progress: for whom it waits, that its work so far was shared."""

    def stage_retried(self, stage: str, error: BaseException) -> None:
        """The stage ended with an error that a further try may not meet, and is tried again."""

    def unit_finished(self, stage: str, unit: str, began: float, ended: float, error: BaseException | None) -> None:
        """A unit of work was done, or ended with `error`; the moments in seconds since 1970."""

    def rank_finished(self, stage: str, unit: str, rank: int, place: str, began: float, ended: float,
                      error: BaseException | None) -> None:  # fmt: skip
        """Of the processes that shared a unit, number `rank` on the machine `place` had joined them and left, or ended
        with `error`; it comes before the unit's end."""

    def stage_aside(self, stage: str, folder: Path) -> None:
        """What stands beside the stage's output was made, or is there: the report of an evaluation.

        Raises FewstepError where it cannot be kept, which is a warning: the output is valid without it.
        """

    def stage_finished(self, stage: str, outcome: Outcome, cost: dict) -> None:
        """The stage's output is published and valid."""

    def stage_failed(self, stage: str, error: BaseException) -> None:
        """The stage stopped; what it finished is kept."""

    def stage_interrupted(self, stage: str) -> None:
        """The stage was told to stop, by Ctrl-C or another signal; what it finished is kept."""

    def pipeline_run(self) -> str | None:
        """Id of the MLflow run of the pipeline run that the stages belong to; None where this listener knows none."""
        return None


class Observers(Observer):
    """Several listeners as one, called in order."""

    def __init__(self, observers: Iterable[Observer] = ()):
        self.observers = list(observers)

    def stage_started(self, stage, key):
        for observer in self.observers:
            observer.stage_started(stage, key)

    def stage_progress(self, stage, done, total, unit="images", metrics=None, step=None):
        for observer in self.observers:
            observer.stage_progress(stage, done, total, unit, metrics, step)

    def stage_warned(self, stage, text):
        for observer in self.observers:
            observer.stage_warned(stage, text)

    def stage_noted(self, stage, text):
        for observer in self.observers:
            observer.stage_noted(stage, text)

    def stage_retried(self, stage, error):
        for observer in self.observers:
            observer.stage_retried(stage, error)

    def unit_finished(self, stage, unit, began, ended, error):
        for observer in self.observers:
            observer.unit_finished(stage, unit, began, ended, error)

    def rank_finished(self, stage, unit, rank, place, began, ended, error):
        for observer in self.observers:
            observer.rank_finished(stage, unit, rank, place, began, ended, error)

    def stage_aside(self, stage, folder):
        failed = None
        for observer in self.observers:     # that one cannot keep it is no reason for the others not to
            try:
                observer.stage_aside(stage, folder)
            except FewstepError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def stage_finished(self, stage, outcome, cost):
        for observer in self.observers:
            observer.stage_finished(stage, outcome, cost)

    def stage_failed(self, stage, error):
        for observer in self.observers:
            observer.stage_failed(stage, error)

    def stage_interrupted(self, stage):
        for observer in self.observers:
            observer.stage_interrupted(stage)

    def pipeline_run(self):
        return next((run for observer in self.observers if (run := observer.pipeline_run()) is not None), None)


@contextlib.contextmanager
def told_of_unit(observer: Observer, stage: str, unit: str) -> Iterator[None]:
    """The block does a unit of work in this thread: the observer is told of its end, and what is logged names it."""
    began, failed = time.time(), None
    with working_on(stage=stage, unit=unit):
        try:
            yield
        except BaseException as error:
            failed = error
            raise
        finally:
            observer.unit_finished(stage, unit, began, time.time(), failed)
