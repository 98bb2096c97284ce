"""Log lines of Prefect, MLflow and DVC, and Python's warnings, go into the run's log file, not into the terminal.

Each of them puts handlers of its own on loggers that do not propagate, some only at the first flow, so no setting of
theirs serves for all.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from flows.telemetry import json_log

LOUD = ("prefect", "mlflow", "alembic", "dvc", "dvc_data", "httpx", "uvicorn", "sqlalchemy", "py.warnings")
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@contextlib.contextmanager
def logs_to(path: Path) -> Iterator[None]:
    """Append what the libraries log or print to `path` for the duration of the block.

    Consoles made before the block go on writing to the terminal. DVC's progress bars, which look for a terminal behind
    sys.stderr, see none. Where JSON is asked for, the lines are JSON, and stderr gets the warnings among them too.
    """
    if "prefect" in sys.modules:
        from prefect.logging.configuration import setup_logging  # not where Prefect is not loaded

        setup_logging()     # it would do so at the first flow, over what follows
    path.parent.mkdir(parents=True, exist_ok=True)
    handlers = [_handler(logging.FileHandler(path, encoding="utf-8"), logging.INFO)]
    if json_log.asked():
        handlers.append(_handler(logging.StreamHandler(sys.stderr), logging.WARNING))
    root = logging.getLogger()
    moved: list[tuple[logging.Logger, logging.Handler]] = []
    for logger in (root, *_loggers()):
        for old in list(logger.handlers):
            if isinstance(old, logging.StreamHandler) and not isinstance(old, logging.FileHandler):
                logger.removeHandler(old)
                moved.append((logger, old))
        if logger is root or not logger.propagate:
            for handler in handlers:
                logger.addHandler(handler)
    logging.captureWarnings(True)
    try:
        with open(path, "a", encoding="utf-8", buffering=1) as printed, \
                contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            yield
    finally:
        logging.captureWarnings(False)
        for logger in (root, *_loggers()):
            for handler in handlers:
                logger.removeHandler(handler)
        for logger, old in moved:
            logger.addHandler(old)
        handlers[0].close()     # the other one writes to a stream that is not ours


def _handler(handler: logging.Handler, level: int) -> logging.Handler:
    handler.setFormatter(json_log.JsonLines() if json_log.asked() else logging.Formatter(FORMAT))
    handler.setLevel(level)
    return handler


def _loggers() -> list[logging.Logger]:
    return [logger for name, logger in list(logging.Logger.manager.loggerDict.items())
            if isinstance(logger, logging.Logger) and name.split(".")[0] in LOUD]


def drain() -> None:
    """Send what Prefect has queued (log lines, task states) before its server is stopped."""
    if "prefect" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker  # not where Prefect is not loaded
    from prefect.logging.handlers import APILogWorker

    EventsWorker.drain_all(timeout=5)
    APILogWorker.drain_all(timeout=5)
