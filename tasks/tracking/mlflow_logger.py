"""The observer that turns a pipeline run into MLflow runs.

One parent run per pipeline run and one child per stage (and stage key), found again by their tags after a failure, so
that a resumed run continues in the same MLflow runs. Replayed steps at or below the last step found in MLflow are equal
bit for bit and are not logged again. Points wait in a file (tasks.tracking.metric_buffer) until MLflow has them: an absent server delays
metrics and loses none.
"""

import contextlib
import json
import threading
import time
from pathlib import Path

from fewstep.util.errors import NotAvailable
from tasks.engine.events import Observer
from tasks.tracking.metric_buffer import Point, Spool, metric_name, numbers
from tasks.tracking.mlflow_client import Metric, Param, RunTag, Tracking, ViewType, safe
from tasks.tracking.redaction import flatten, redact

FLUSH_SECONDS = 5.0  # a batch is sent at most this often …
FLUSH_POINTS = 500  # … unless so many points wait
PROGRESS_SECONDS = 2.0
_BATCH = 1000  # MLflow's limit of metrics per call


def now() -> int:
    return time.time_ns() // 1_000_000


class _Child:
    """A stage's MLflow run: its id, its undelivered points, the last step known to be in MLflow per metric."""

    def __init__(self, stage: str, key: str, spool: Spool):
        self.stage, self.key, self.spool = stage, key, spool
        self.run_id: str | None = None  # known once there is something to write
        self.watermark: dict[str, int] = {}  # in MLflow
        self.queued: dict[str, int] = {}  # in MLflow or in the spool
        self.last_flush = self.last_progress = 0.0
        self.started: tuple[float, int] | None = None
        self.uncertain = False  # a delivery was tried and its answer never came


class MlflowObserver(Observer):
    """Writes a pipeline run to MLflow. Safe to call from several threads.

    `settings` has `name` and is a pydantic model or a dict; `run_record` has `id`. Points of a running stage that
    cannot be delivered wait in a file; an absent server raises NotAvailable at the run's start and end and at a stage's
    end. A stage that turns out to be current leaves no run of its own.
    """

    def __init__(self, workspace, settings, run_record):
        values = settings if isinstance(settings, dict) else settings.model_dump(mode="json")
        self.workspace, self.values, self.run_id = workspace, values, str(run_record.id)
        self.tracking = Tracking.of(workspace)
        self.experiment_id: str | None = None
        self.parent_id: str | None = None
        self._children: dict[str, _Child] = {}
        self._lock = threading.RLock()

    # the run

    def start(self, tags: dict[str, str] | None = None) -> str:
        """Opens or reopens the parent run and returns its id. `tags` are stored redacted."""
        with self._lock:
            self.experiment_id = self.tracking.experiment(str(self.values["name"]))
            found = self._search(f"tags.`fewstep.run` = '{self.run_id}' and tags.`fewstep.kind` = 'pipeline'")
            own = {"fewstep.run": self.run_id, "fewstep.kind": "pipeline"}
            own |= {key: redact(str(value)) for key, value in (tags or {}).items()}
            self.parent_id = self._open(found, self.run_id, own)
            params = [Param(key, value[:6000]) for key, value in sorted(flatten(self.values).items())]
            for first in range(0, len(params), 100):
                self.tracking.call("log_batch", self.parent_id, params=params[first : first + 100])
            return self.parent_id

    def finish(self, status: str = "FINISHED") -> None:
        """Delivers what waits and closes the runs. `status`: FINISHED, FAILED or KILLED."""
        with self._lock:
            for stage, child in list(self._children.items()):
                self._flush(child, required=True)
                if child.run_id is not None:
                    self._close(stage, child, status, {})
            self._children.clear()
            if self.parent_id is not None:
                self.tracking.call("set_terminated", self.parent_id, status=status)

    # the observer's calls

    def stage_started(self, stage: str, key: str) -> None:
        with self._lock:
            if self.parent_id is None:
                self.start()
            name = f"{safe(self.run_id)}-{stage}-{key[:16]}.jsonl"
            child = self._children[stage] = _Child(stage, key, Spool(Path(self.workspace.shared) / "metrics" / name))
            for point in child.spool.points:
                child.queued[point.name] = max(point.step, child.queued.get(point.name, -1))

    def stage_progress(self, stage, done, total, unit="images", metrics=None, step=None) -> None:
        with self._lock:
            child = self._children.get(stage)
            if child is None:
                return
            values = {metric_name(name): float(value) for name, value in (metrics or {}).items()}
            position, clock = int(done if step is None else step), time.monotonic()
            child.started = child.started or (clock, int(done))
            if clock - child.last_progress >= PROGRESS_SECONDS or done >= total:
                child.last_progress = clock
                values[f"progress/{metric_name(unit)}"] = float(done)
                if clock > child.started[0] and done > child.started[1]:
                    rate = (done - child.started[1]) / (clock - child.started[0])
                    values[f"progress/{metric_name(unit)}_per_second"] = rate
            self._queue(child, values, position)
            if clock - child.last_flush >= FLUSH_SECONDS or len(child.spool.points) >= FLUSH_POINTS:
                self._flush(child, required=False)

    def stage_warned(self, stage: str, text: str) -> None:
        with self._lock:
            if self.parent_id is not None:
                self.tracking.call("set_tag", self.parent_id, f"fewstep.warning.{stage}", redact(text)[:5000])

    def stage_aside(self, stage: str, folder: Path) -> None:
        """The page and the figures as artifacts of the run; not the material that pages are made of."""
        with self._lock:
            if self.parent_id is None:
                return
            for path in sorted(folder.glob("*.html")):
                self.tracking.call("log_artifact", self.parent_id, str(path), folder.name)

    def stage_finished(self, stage: str, outcome, cost) -> None:
        with self._lock:
            child = self._children.get(stage)
            if child is None:
                return
            if getattr(outcome, "state", "made") == "current" and child.run_id is None and not child.spool.points:
                del self._children[stage]
                return
            manifest = getattr(outcome, "manifest", None)
            self._queue(child, {f"cost/{name}": value for name, value in numbers(cost or {}).items()}, 0)
            self._queue(child, numbers(getattr(manifest, "summary", None) or {}), 0)
            self._flush(child, required=True)
            self._open_child(child)
            tags = {"fewstep.state": str(getattr(outcome, "state", "made"))}
            if manifest is not None:
                tags["fewstep.digest"] = str(manifest.digest)
                protocol = (manifest.summary or {}).get("protocol")
                if protocol:
                    tags["fewstep.protocol"] = json.dumps(protocol, sort_keys=True)
            self._close(stage, child, "FINISHED", tags)

    def stage_failed(self, stage: str, error: BaseException) -> None:
        with self._lock:
            child = self._children.get(stage)
            if child is None:
                return
            with contextlib.suppress(NotAvailable):  # the error being reported is the one the user must see
                self._flush(child, required=True)
                self._open_child(child)
                self._close(stage, child, "FAILED", {"fewstep.error": redact(str(error))[:5000]})

    # details

    def _open_child(self, child: _Child) -> None:
        if child.run_id is not None:
            return
        found = self._search(f"tags.`fewstep.run` = '{self.run_id}' and tags.`fewstep.stage` = '{child.stage}' "
                             f"and tags.`fewstep.key` = '{child.key}'")  # fmt: skip
        tags = {"fewstep.run": self.run_id, "fewstep.kind": "stage", "fewstep.stage": child.stage,
                "fewstep.key": child.key, "mlflow.parentRunId": self.parent_id}  # fmt: skip
        run_id = self._open(found, child.stage, tags)
        for name in self.tracking.call("get_run", run_id).data.metrics:
            steps = [metric.step for metric in self.tracking.call("get_metric_history", run_id, name)]
            child.watermark[name] = max(steps)
            child.queued[name] = max(child.watermark[name], child.queued.get(name, -1))
        child.run_id = run_id

    def _search(self, condition: str) -> list:
        return self.tracking.pages("search_runs", [self.experiment_id], condition,
                                   run_view_type=ViewType.ACTIVE_ONLY, order_by=["attributes.start_time ASC"])

    def _open(self, found: list, name: str, tags: dict[str, str]) -> str:
        if not found:
            return self.tracking.call("create_run", self.experiment_id, tags=tags, run_name=name).info.run_id
        run_id = found[0].info.run_id
        self.tracking.call("update_run", run_id, status="RUNNING")
        stale = [RunTag(key, value) for key, value in tags.items() if found[0].data.tags.get(key) != value]
        if stale:
            self.tracking.call("log_batch", run_id, tags=stale)
        return run_id

    def _close(self, stage: str, child: _Child, status: str, tags: dict[str, str]) -> None:
        self.tracking.call("log_batch", child.run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        self.tracking.call("set_terminated", child.run_id, status=status)
        child.spool.close()
        del self._children[stage]

    def _queue(self, child: _Child, values: dict[str, float], step: int) -> None:
        fresh = [Point(name, value, step, now()) for name, value in values.items() if step > child.queued.get(name, -1)]
        child.spool.append(fresh)
        child.queued.update((point.name, step) for point in fresh)

    def _flush(self, child: _Child, *, required: bool) -> None:
        child.last_flush = time.monotonic()
        try:
            while child.spool.points:
                self._open_child(child)
                batch = child.spool.points[:_BATCH]
                self.tracking.attempt("log_batch", lambda: self._deliver(child, batch))  # noqa: B023
                child.spool.delivered(len(batch))
        except NotAvailable:
            if required:
                raise
            child.last_flush = time.monotonic() + 30.0  # leave the server alone for a while; the points are in the file

    def _deliver(self, child: _Child, batch: list[Point]) -> None:
        """Sends the points above the watermark. A try whose answer was lost may have been written: read again then."""
        for name in {point.name for point in batch} if child.uncertain else ():
            steps = [metric.step for metric in self.tracking.client.get_metric_history(child.run_id, name)]
            child.watermark[name] = max(steps, default=-1)
        metrics = [Metric(point.name, point.value, point.time, point.step) for point in batch
                   if point.step > child.watermark.get(point.name, -1)]  # fmt: skip
        child.uncertain = True
        if metrics:
            self.tracking.client.log_batch(child.run_id, metrics=metrics)
        child.uncertain = False
        for metric in metrics:
            child.watermark[metric.key] = max(metric.step, child.watermark.get(metric.key, -1))
