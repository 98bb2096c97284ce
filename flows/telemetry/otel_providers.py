"""OpenTelemetry's providers and exporters, made of its own variables, for one run or one server. The global ones of the
process are left alone: Prefect and MLflow have spans of their own."""

from __future__ import annotations

import hashlib
import os

from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Tracer

from flows.telemetry.otel_settings import exporter_of
from tasks.storage.sharing.host import host_name

SCOPE = "fewstep"
CLOSING_MS = 10_000     # the most that the end of a run waits for a collector that does not answer


class Providers:
    """The meter and the tracer of one run or server.

    `instance` tells it from others (`service.instance.id`); all that carry the same one share a trace.
    """

    def __init__(self, instance: str, model: str, *, readers: list[MetricReader] | None = None,
                 processors: list[SpanProcessor] | None = None):  # fmt: skip
        resource = Resource.create({"service.instance.id": instance, "fewstep.model": model, "host.name": host_name(),
                                    **({} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": SCOPE})})
        self._meters = MeterProvider(_readers() if readers is None else readers, resource, shutdown_on_exit=False)
        self._tracers = TracerProvider(resource=resource, shutdown_on_exit=False, id_generator=_OneTrace(instance))
        for processor in _processors() if processors is None else processors:
            self._tracers.add_span_processor(processor)
        self.meter: Meter = self._meters.get_meter(SCOPE)
        self.tracer: Tracer = self._tracers.get_tracer(SCOPE)

    def close(self) -> None:
        """Sends what waits. A collector that does not answer costs a warning in the log."""
        self._meters.shutdown(CLOSING_MS)
        self._tracers.force_flush(CLOSING_MS)
        self._tracers.shutdown()


class _OneTrace(RandomIdGenerator):
    """The trace's id is a function of the run's: every attempt at a run, on whichever host, is in one trace."""

    def __init__(self, instance: str):
        self.trace = int.from_bytes(hashlib.sha256(instance.encode()).digest()[:16], "big")

    def generate_trace_id(self) -> int:
        return self.trace


def _readers() -> list[MetricReader]:
    exporter = exporter_of("metrics")
    if exporter is None:
        return []
    if exporter == "console":
        return [PeriodicExportingMetricReader(ConsoleMetricExporter())]
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # of the extra `otel`

    return [PeriodicExportingMetricReader(OTLPMetricExporter())]


def _processors() -> list[SpanProcessor]:
    exporter = exporter_of("traces")
    if exporter is None:
        return []
    if exporter == "console":
        return [BatchSpanProcessor(ConsoleSpanExporter())]
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # of the extra `otel`

    return [BatchSpanProcessor(OTLPSpanExporter())]
