"""The observer that writes a pipeline run to MLflow.

One parent run per pipeline run and one child run per stage and stage key. A resumed run continues in the same MLflow
runs, which it finds by their tags. Steps that a resumed stage computes again are equal bit for bit and are not logged
again: points at or below the last step in MLflow are left out. Points wait in a file (tasks.tracking.metric_buffer)
until MLflow has them: an absent server delays metrics and loses none.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fewstep.util.errors import NotAvailable
from tasks.config.schema import Settings
from tasks.engine.events import Observer
from tasks.storage.workspace import Workspace
from tasks.tracking.metric_buffer import MetricBuffer, Point, metric_name, numbers
from tasks.tracking.mlflow_client import Metric, Param, Run, RunTag, Tracking, ViewType, all_pages, safe
from tasks.tracking.redaction import flatten, redact
from tasks.tracking.shared_runs import RunTakenOver

if TYPE_CHECKING:
    from tasks.engine.events import Outcome

FLUSH_SECONDS = 5.0  # a batch is sent at most this often …
FLUSH_POINTS = 500  # … unless so many points wait
PROGRESS_SECONDS = 2.0
PAUSE_SECONDS = 30.0  # without a try after the server did not answer
BATCH = 1000  # MLflow's limit of metrics per call
PARAMS = 100  # MLflow's limit of parameters per call


class HasId(Protocol):
    """The part of a run's record that is asked for."""

    id: str


class StageRun:
    """A stage's MLflow run: its id, its undelivered points, the last step of each metric.

    Attributes:
        run_id: None until there is something to write.
        logged: last step per metric in MLflow.
        queued: last step per metric in MLflow or in the buffer.
        started: monotonic time in seconds and units done at the first progress.
    """

    def __init__(self, stage: str, key: str, buffer: MetricBuffer):
        self.stage, self.key, self.buffer = stage, key, buffer
        self.run_id: str | None = None
        self.logged: dict[str, int] = {}
        self.queued: dict[str, int] = {}
        self.next_flush = self.last_progress = 0.0
        self.started: tuple[float, int] | None = None
        for point in buffer.points:
            self.queued[point.name] = max(point.step, self.queued.get(point.name, -1))

    def progress_metrics(self, done: int, total: int, unit: str) -> dict[str, float]:
        """`progress/<unit>` and its rate per second, every PROGRESS_SECONDS and at the end."""
        clock, unit = time.monotonic(), metric_name(unit)
        self.started = self.started or (clock, done)
        if clock - self.last_progress < PROGRESS_SECONDS and done < total:
            return {}
        self.last_progress = clock
        metrics = {f"progress/{unit}": float(done)}
        begun, before = self.started
        if clock > begun and done > before:
            metrics[f"progress/{unit}_per_second"] = (done - before) / (clock - begun)
        return metrics

    def queue(self, values: dict[str, float], step: int) -> None:
        """Puts the values that are new at `step` into the buffer."""
        now = time.time_ns() // 1_000_000
        points = [Point(name, value, step, now) for name, value in values.items() if step > self.queued.get(name, -1)]
        self.buffer.append(points)
        self.queued.update((point.name, step) for point in points)


class MlflowObserver(Observer):
    """Writes a pipeline run to MLflow. Safe to call from several threads.

    Points of a running stage that cannot be delivered wait in a file; an absent server raises NotAvailable at the run's
    start and end and at a stage's end. A stage that turns out to be current leaves no run.
    """

    def __init__(self, workspace: Workspace, settings: Settings | dict[str, Any], run_record: HasId):
        self.workspace, self.run_id = workspace, run_record.id
        self.settings = settings if isinstance(settings, dict) else settings.model_dump(mode="json")
        self.tracking = Tracking.of(workspace)
        self.experiment_id: str | None = None
        self.parent_id: str | None = None
        self._stages: dict[str, StageRun] = {}
        self._lock = threading.RLock()

    # the run

    def start(self, tags: dict[str, str] | None = None) -> str:
        """Opens or reopens the parent run and returns its id. `tags` are stored redacted."""
        with self._lock:
            self.experiment_id = self.tracking.experiment(str(self.settings["name"]))
            runs = self._search(f"tags.`fewstep.run` = '{self.run_id}' and tags.`fewstep.kind` = 'pipeline'")
            given = {key: redact(value) for key, value in (tags or {}).items()}
            kind = {"fewstep.run": self.run_id, "fewstep.kind": "pipeline"}
            self.parent_id = self._open(runs, self.run_id, kind | given)
            params = [Param(key, value[:6000]) for key, value in sorted(flatten(self.settings).items())]
            for first in range(0, len(params), PARAMS):
                self.tracking.client.log_batch(self.parent_id, params=params[first : first + PARAMS])
            return self.parent_id

    def finish(self, status: str = "FINISHED") -> None:
        """Delivers what waits and closes the runs. `status`: FINISHED, FAILED or KILLED."""
        with self._lock:
            for stage in list(self._stages.values()):
                self._flush(stage)
                if stage.run_id is not None:
                    self._close(stage, status, {})
            self._stages.clear()
            if self.parent_id is not None:
                self.tracking.client.set_terminated(self.parent_id, status=status)

    def waiting(self) -> int:
        """Points that MLflow does not have yet."""
        return sum(len(stage.buffer.points) for stage in list(self._stages.values()))

    # the observer's calls

    def pipeline_run(self) -> str | None:
        return self.parent_id

    def stage_started(self, stage: str, key: str) -> None:
        with self._lock:
            if self.parent_id is None:
                self.start()
            path = self.workspace.shared / "metrics" / f"{safe(self.run_id)}-{stage}-{key[:16]}.jsonl"
            self._stages[stage] = StageRun(stage, key, MetricBuffer(path))

    def stage_progress(self, stage: str, done: int, total: int, unit: str = "images",
                       metrics: dict[str, float] | None = None, step: int | None = None) -> None:  # fmt: skip
        with self._lock:
            run = self._stages.get(stage)
            if run is None:
                return
            values = {metric_name(name): float(value) for name, value in (metrics or {}).items()}
            run.queue(values | run.progress_metrics(int(done), total, unit), int(done if step is None else step))
            if time.monotonic() >= run.next_flush or len(run.buffer.points) >= FLUSH_POINTS:
                run.next_flush = time.monotonic() + FLUSH_SECONDS
                try:
                    self._flush(run)
                except NotAvailable:  # the points are in the file
                    run.next_flush = time.monotonic() + PAUSE_SECONDS

    def stage_warned(self, stage: str, text: str) -> None:
        with self._lock:
            if self.parent_id is not None:
                self.tracking.client.set_tag(self.parent_id, f"fewstep.warning.{stage}", redact(text)[:5000])

    def stage_aside(self, stage: str, folder: Path) -> None:
        """Keeps the pages in `folder` as artifacts of the run, without the material that they are made of."""
        with self._lock:
            if self.parent_id is None:
                return
            for path in sorted(folder.glob("*.html")):
                self.tracking.client.log_artifact(self.parent_id, str(path), folder.name)

    def stage_finished(self, stage: str, outcome: Outcome, cost: dict) -> None:
        with self._lock:
            run = self._stages.get(stage)
            if run is None:
                return
            if outcome.state == "current" and run.run_id is None and not run.buffer.points:
                del self._stages[stage]
                return
            summary = outcome.manifest.summary
            run.queue({f"cost/{name}": value for name, value in numbers(cost).items()}, 0)
            run.queue(numbers(summary), 0)
            self._flush(run)
            tags = {"fewstep.state": outcome.state, "fewstep.digest": outcome.manifest.digest}
            if summary.get("protocol"):
                tags["fewstep.protocol"] = json.dumps(summary["protocol"], sort_keys=True)
            self._close(run, "FINISHED", tags)

    def stage_failed(self, stage: str, error: BaseException) -> None:
        with self._lock:
            run = self._stages.get(stage)
            if run is None or isinstance(error, RunTakenOver):
                return
            with contextlib.suppress(NotAvailable):  # the error being reported is the one the user must see
                self._flush(run)
                self._close(run, "FAILED", {"fewstep.error": redact(str(error))[:5000]})

    def stage_interrupted(self, stage: str) -> None:
        with self._lock:
            run = self._stages.get(stage)
            if run is None:
                return
            with contextlib.suppress(NotAvailable):  # the points stay in the file; `fewstep reconcile` closes the run
                self._flush(run)
                self._close(run, "KILLED", {"fewstep.state": "interrupted"})

    # details

    def _stage_run(self, stage: StageRun) -> str:
        """Id of the stage's MLflow run, opened or made at the first call."""
        if stage.run_id is None:
            runs = self._search(f"tags.`fewstep.run` = '{self.run_id}' and tags.`fewstep.stage` = '{stage.stage}' "
                                f"and tags.`fewstep.key` = '{stage.key}'")  # fmt: skip
            tags = {"fewstep.run": self.run_id, "fewstep.kind": "stage", "fewstep.stage": stage.stage,
                    "fewstep.key": stage.key, "mlflow.parentRunId": self.parent_id}  # fmt: skip
            run_id = self._open(runs, stage.stage, tags)
            for name in self.tracking.client.get_run(run_id).data.metrics:
                stage.logged[name] = max(m.step for m in self.tracking.client.get_metric_history(run_id, name))
                stage.queued[name] = max(stage.logged[name], stage.queued.get(name, -1))
            stage.run_id = run_id
        return stage.run_id

    def _search(self, condition: str) -> list[Run]:
        return all_pages(self.tracking.client.search_runs, [self.experiment_id], condition,
                         run_view_type=ViewType.ACTIVE_ONLY, order_by=["attributes.start_time ASC"])  # fmt: skip

    def _open(self, runs: list[Run], name: str, tags: dict[str, str]) -> str:
        """The id of the first of `runs`, running again under `tags`; of a new run where there is none."""
        if not runs:
            return self.tracking.client.create_run(self.experiment_id, tags=tags, run_name=name).info.run_id
        run = runs[0]
        self.tracking.client.update_run(run.info.run_id, status="RUNNING")
        changed = [RunTag(key, value) for key, value in tags.items() if run.data.tags.get(key) != value]
        if changed:
            self.tracking.client.log_batch(run.info.run_id, tags=changed)
        return run.info.run_id

    def _close(self, stage: StageRun, status: str, tags: dict[str, str]) -> None:
        run_id = self._stage_run(stage)
        self.tracking.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        self.tracking.client.set_terminated(run_id, status=status)
        stage.buffer.close()
        del self._stages[stage.stage]

    def _flush(self, stage: StageRun) -> None:
        """Sends what waits. A batch whose answer was lost is sent again: MLflow keeps equal points once."""
        while stage.buffer.points:
            run_id = self._stage_run(stage)
            batch = stage.buffer.points[:BATCH]
            metrics = [Metric(point.name, point.value, point.time, point.step) for point in batch
                       if point.step > stage.logged.get(point.name, -1)]  # fmt: skip
            if metrics:
                self.tracking.client.log_batch(run_id, metrics=metrics)
            stage.buffer.delivered(len(batch))
            for metric in metrics:
                stage.logged[metric.key] = max(metric.step, stage.logged.get(metric.key, -1))
