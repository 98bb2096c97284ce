"""No secret in what Python itself writes down of a process: log records, tracebacks, the text of exceptions.

Libraries put addresses with logins, and what a server answered, into their exceptions; Prefect stores an exception's
text in its database, and logging and the interpreter print its traceback with all its causes.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from types import TracebackType

from fewstep.util.errors import FewstepError
from tasks.tracking.redaction import redact, remember_environment


def redact_logs_and_tracebacks() -> None:
    """From here on every log record and every uncaught exception of this process is redacted. For a process's start."""
    remember_environment()
    if getattr(logging.getLogRecordFactory(), "redacts", False):
        return
    made = logging.getLogRecordFactory()

    def record(*args, **kwargs) -> logging.LogRecord:
        new = made(*args, **kwargs)
        _redact_record(new)
        return new

    record.redacts = True
    logging.setLogRecordFactory(record)
    sys.excepthook = _print_redacted
    threading.excepthook = lambda failed: _print_redacted(failed.exc_type, failed.exc_value, failed.exc_traceback)


@contextlib.contextmanager
def without_secrets() -> Iterator[None]:
    """An exception that leaves the block (or the function it decorates) has no secret in its own text, for who stores
    that, as Prefect does. Where one had, the cause is the exception as it was, so that its kind can still be told.
    """
    try:
        yield
    except Exception as error:
        said = str(error)
        clean = redact(said)
        if clean == said:
            raise
        if isinstance(error, FewstepError):     # its text is its argument
            error.args = (clean, *error.args[1:])
            raise
        raise RuntimeError(f"{type(error).__name__}: {clean}") from error


def _redact_record(record: logging.LogRecord) -> None:
    try:
        said = record.getMessage()
    except (TypeError, ValueError):     # arguments that do not fit: logging itself complains about those
        return
    clean = redact(said)
    if clean != said:
        record.msg, record.args = clean, None
    if record.exc_info and record.exc_info[1] is not None:      # a formatter takes the text that is there
        record.exc_text = redact("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"))


def _print_redacted(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))
