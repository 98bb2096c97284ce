"""Whether OpenTelemetry is asked for, by its own variables. Nothing of OpenTelemetry is imported here."""

from __future__ import annotations

import importlib.util
import os
from typing import Literal

from fewstep.util.errors import NotAvailable, SettingsError

Signal = Literal["metrics", "traces"]
_EXPORTERS = ("otlp", "console", "none")
_PROTOCOL = "http/protobuf"


def exporter_of(signal: Signal) -> str | None:
    """`otlp` or `console`, None where the signal is not asked for: it is by an endpoint, or by naming an exporter.

    Raises SettingsError for an exporter or a protocol that we do not have.
    """
    environment, upper = os.environ, signal.upper()
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    named = environment.get(f"OTEL_{upper}_EXPORTER")
    if named and named not in _EXPORTERS:
        raise SettingsError(f"OTEL_{upper}_EXPORTER: expected one of {', '.join(_EXPORTERS)}, got {named[:40]!r}")
    endpoint = environment.get(f"OTEL_EXPORTER_OTLP_{upper}_ENDPOINT") or environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    exporter = named or ("otlp" if endpoint else "none")
    for variable in (f"OTEL_EXPORTER_OTLP_{upper}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        protocol = environment.get(variable)
        if exporter == "otlp" and protocol and protocol != _PROTOCOL:
            raise SettingsError(f"{variable}: only {_PROTOCOL} is supported, got {protocol[:40]!r}",
                                hint="collectors take it on port 4318")
    return None if exporter == "none" else exporter


def asked() -> bool:
    """Whether metrics or traces are asked for. Raises as `exporter_of`, and NotAvailable where it is not installed."""
    exporters = {exporter_of("metrics"), exporter_of("traces")}
    if "otlp" in exporters and importlib.util.find_spec("opentelemetry.exporter") is None:
        raise NotAvailable("the environment asks for OpenTelemetry (OTEL_…), which is not installed",
                           hint="pip install -c constraints.txt 'fewstep[otel]'")
    return exporters != {None}
