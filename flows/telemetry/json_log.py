"""Log lines as JSON, where FEWSTEP_LOG=json asks for them: one object a line, with the run, the stage and the unit.

They go to stderr, so that stdout is a command's answer, as it is without.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from fewstep.util.errors import SettingsError
from tasks.tracking.log_place import place
from tasks.tracking.redaction import redact

VARIABLE = "FEWSTEP_LOG"


def asked() -> bool:
    """Whether the environment asks for JSON. Raises SettingsError for a value that is neither `json` nor `text`."""
    value = os.environ.get(VARIABLE, "") or "text"
    if value not in ("json", "text"):
        raise SettingsError(f"{VARIABLE}: expected 'json' or 'text', got {value[:40]!r}")
    return value == "json"


def asked_quietly() -> bool:
    """`asked` for who says an error: a value that is none is said elsewhere, and is no reason to hide the error."""
    return os.environ.get(VARIABLE) == "json"


class JsonLines(logging.Formatter):
    """One JSON object for each record: `time` (UTC), `level`, `logger`, `message`, where known `run`, `stage`, `unit`
    and, where the record has them, `fields` of its own and `error`, the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_text or (self.formatException(record.exc_info) if record.exc_info else None)
        return line(record.levelname.lower(), record.name, record.getMessage(), at=record.created,
                    **getattr(record, "fields", {}), **({"error": error} if error else {}))  # fmt: skip


def line(level: str, logger: str, message: str, *, at: float | None = None, **fields: Any) -> str:
    """One line, without its end. `at`: seconds since 1970, None is now; `fields` that are None are left out."""
    moment = datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
    data = {"time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"), "level": level, "logger": logger,
            "message": message, **place(), **{name: value for name, value in fields.items() if value is not None}}
    return redact(json.dumps(data, ensure_ascii=False, default=str))


def write(level: str, message: str, stream: TextIO | None = None, **fields: Any) -> None:
    """One line of ours, on stderr."""
    print(line(level, "fewstep", message, **fields), file=stream or sys.stderr, flush=True)
