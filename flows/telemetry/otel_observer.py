"""A run as OpenTelemetry's metrics and traces: run → stage → unit → process. docs/observability.md lists names and
meanings.

A run is a batch job, whose process ends: its figures are gauges, each the last that was measured, and no counters,
which a collector would see once.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import Span, Status, StatusCode, set_span_in_context

from flows.telemetry.otel_providers import Providers
from flows.telemetry.progress_rate import Rate
from tasks.engine.events import Observer
from tasks.tracking.redaction import redact
from tasks.tracking.run_record import FINISHED, RUNNING

_NANO = 1_000_000_000


@dataclass(frozen=True)
class _Rank:
    """A process that shared a unit; times: seconds since 1970 at which it had joined and left."""

    number: int
    place: str
    times: tuple[float, float]
    error: BaseException | None


class OtelObserver(Observer):
    """Safe to call from several threads. `waiting` tells how many points wait for MLflow, `champion` how many seconds
    ago the champion was registered, None without one; both are asked at every export."""

    def __init__(self, providers: Providers, run: str, attempt: int, waiting: Callable[[], int],
                 champion: Callable[[], float | None]):  # fmt: skip
        self.providers, self.waiting, self.champion = providers, waiting, champion
        self._lock = threading.RLock()
        self._state = RUNNING
        self._rates: dict[str, Rate] = {}
        self._spans: dict[str, tuple[Span, float]] = {}     # by stage, with the monotonic time of its start
        self._ranks: dict[tuple[str, str], list[_Rank]] = {}    # by stage and unit, until the unit's span is there
        meter = providers.meter
        meter.create_observable_gauge("fewstep.run.state", [self._run_state], "", "1 for the run's state")
        meter.create_observable_gauge("fewstep.tracking.queue", [self._queue], "{point}", "Points that wait for MLflow")
        meter.create_observable_gauge("fewstep.gpu.memory", [_gpu_memory], "By", "Memory that this process's tensors "
                                      "take on a GPU, and the most they took")  # fmt: skip
        meter.create_observable_gauge("fewstep.champion.age", [self._champion_age], "s", "Since the champion was made")
        self._durations = meter.create_gauge("fewstep.stage.duration", "s", "Seconds that a stage took")
        self._progress = meter.create_gauge("fewstep.stage.progress", "", "Share of a stage that is done")
        self._speed = meter.create_gauge("fewstep.stage.rate", "{item}/s", "Images, records, … per second")
        self._units = meter.create_histogram("fewstep.unit.duration", "s", "Seconds that a unit of work took")
        self._retries = meter.create_counter("fewstep.stage.retries", "{retry}", "Further tries of a stage")
        self._warnings = meter.create_counter("fewstep.stage.warnings", "{warning}", "Warnings of a stage")
        self._run = providers.tracer.start_span(f"run {run}", Context(),
                                                attributes={"fewstep.run": run, "fewstep.attempt": attempt})

    def finish(self, state: str) -> None:
        """The run ended in `state`; sends what waits."""
        with self._lock:
            self._state = state
            for stage in list(self._spans):
                self._end(stage, state)
            self._run.set_attribute("fewstep.state", state)
            self._run.set_status(Status(StatusCode.OK if state == FINISHED else StatusCode.ERROR))
            self._run.end()
        self.providers.close()

    # the observer's calls

    def stage_started(self, stage, key):
        with self._lock:
            if stage in self._spans:    # tried again
                self._end(stage, "retried")
            span = self.providers.tracer.start_span(stage, set_span_in_context(self._run, Context()), attributes={
                "fewstep.stage": stage, "fewstep.key": key})  # fmt: skip
            self._spans[stage], self._rates[stage] = (span, time.monotonic()), Rate()

    def stage_progress(self, stage, done, total, unit="images", metrics=None, step=None):
        with self._lock:
            rate = self._rates.setdefault(stage, Rate())
            rate.add(int(done))
            per_second = rate.per_second()
        if total:
            self._progress.set(done / total, {"stage": stage})
        if per_second is not None:
            self._speed.set(per_second, {"stage": stage, "item": unit})

    def stage_warned(self, stage, text):
        self._warnings.add(1, {"stage": stage})
        self._event(stage, "warning", text)

    def stage_noted(self, stage, text):
        self._event(stage, "note", text)

    def stage_retried(self, stage, error):
        self._retries.add(1, {"stage": stage})

    def unit_finished(self, stage, unit, began, ended, error):
        self._units.record(ended - began, {"stage": stage})
        with self._lock:
            parent = self._spans[stage][0] if stage in self._spans else self._run
            ranks = self._ranks.pop((stage, unit), [])
        facts = {"fewstep.stage": stage, "fewstep.unit": unit}
        span = self._done(unit, parent, facts, began, ended, error)
        for rank in ranks:
            own = {"fewstep.rank": rank.number, "fewstep.place": rank.place}
            self._done(f"process {rank.number + 1}", span, facts | own, *rank.times, rank.error)

    def rank_finished(self, stage, unit, rank, place, began, ended, error):
        with self._lock:
            self._ranks.setdefault((stage, unit), []).append(_Rank(rank, place, (began, ended), error))

    def stage_finished(self, stage, outcome, cost):
        with self._lock:
            self._end(stage, outcome.state, digest=outcome.manifest.digest)

    def stage_failed(self, stage, error):
        with self._lock:
            self._end(stage, "failed", error)

    def stage_interrupted(self, stage):
        with self._lock:
            self._end(stage, "interrupted")

    # details

    def _done(self, name: str, parent: Span, facts: dict, began: float, ended: float,
              error: BaseException | None) -> Span:  # fmt: skip
        """The span of what has ended."""
        span = self.providers.tracer.start_span(name, set_span_in_context(parent, Context()), attributes=facts,
                                                start_time=int(began * _NANO))
        if error is not None:
            span.set_status(_error(error))
        span.end(int(ended * _NANO))
        return span

    def _end(self, stage: str, outcome: str, error: BaseException | None = None, digest: str | None = None) -> None:
        if stage not in self._spans:    # it failed before it began
            return
        span, started = self._spans.pop(stage)
        self._durations.set(time.monotonic() - started, {"stage": stage, "outcome": outcome})
        span.set_attribute("fewstep.outcome", outcome)
        if digest is not None:
            span.set_attribute("fewstep.digest", digest)
        if error is not None:
            span.set_status(_error(error))
        span.end()

    def _event(self, stage: str, name: str, text: str) -> None:
        with self._lock:
            span = self._spans[stage][0] if stage in self._spans else self._run
        span.add_event(name, {"fewstep.stage": stage, "text": redact(text)})

    def _run_state(self, options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(1, {"state": self._state})

    def _queue(self, options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(self.waiting())

    def _champion_age(self, options: CallbackOptions) -> Iterable[Observation]:
        age = self.champion()
        if age is not None:
            yield Observation(age)


def _error(error: BaseException) -> Status:
    return Status(StatusCode.ERROR, redact(f"{type(error).__name__}: {error}")[:1000])


def _gpu_memory(options: CallbackOptions) -> Iterable[Observation]:
    """Nothing before a stage has loaded torch and used a GPU: asking would do both."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return
    for device in range(torch.cuda.device_count()):
        yield Observation(torch.cuda.memory_allocated(device), {"device": device, "kind": "allocated"})
        yield Observation(torch.cuda.max_memory_allocated(device), {"device": device, "kind": "most"})
