"""What programs are told of a run while it works: log lines as JSON, and OpenTelemetry's metrics and traces."""
