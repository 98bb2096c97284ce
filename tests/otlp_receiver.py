"""An OpenTelemetry collector for the tests: takes OTLP over HTTP on loopback and keeps what it was sent."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Receiver:
    """What was received.

    Attributes:
        url: its address, for OTEL_EXPORTER_OTLP_ENDPOINT.
        headers: of the last request.
    """

    def __init__(self, url: str):
        self.url, self.headers = url, {}
        self._metrics: list[ExportMetricsServiceRequest] = []
        self._traces: list[ExportTraceServiceRequest] = []

    def take(self, path: str, body: bytes) -> None:
        """Keeps one request. Raises ValueError for a path that is none of the two."""
        kinds = {"/v1/metrics": (ExportMetricsServiceRequest, self._metrics),
                 "/v1/traces": (ExportTraceServiceRequest, self._traces)}  # fmt: skip
        if path not in kinds:
            raise ValueError(path)
        kind, into = kinds[path]
        into.append(kind.FromString(body))

    def spans(self) -> list[Any]:
        """All spans, in the order in which they came."""
        return [span for request in self._traces for group in request.resource_spans for scope in group.scope_spans
                for span in scope.spans]  # fmt: skip

    def last(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """The newest points of a metric: (attributes with those of the resource, point)."""
        found: dict[tuple, tuple[dict[str, Any], Any]] = {}
        for request in self._metrics:
            for group in request.resource_metrics:
                resource = attributes(group.resource)
                for metric in (metric for scope in group.scope_metrics for metric in scope.metrics):
                    if metric.name == name:
                        for point in getattr(metric, metric.WhichOneof("data")).data_points:
                            of_point = {**resource, **attributes(point)}
                            found[tuple(sorted(of_point.items()))] = (of_point, point)
        return list(found.values())

    def names(self) -> set[tuple[str, str]]:
        """Name and unit of every metric."""
        return {(metric.name, metric.unit) for request in self._metrics for group in request.resource_metrics
                for scope in group.scope_metrics for metric in scope.metrics}  # fmt: skip


def attributes(of: Any) -> dict[str, Any]:
    """The attributes of a resource, a span or a point."""
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in of.attributes}


@contextmanager
def otlp_receiver() -> Iterator[Receiver]:
    """A receiver for the duration of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            receiver.headers = dict(self.headers)
            receiver.take(self.path, body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
