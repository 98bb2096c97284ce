"""What is logged where a unit is done, told to the run and logged there again: warnings and errors of libraries and of
Python, by the names of their loggers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

Tell = Callable[[dict[str, Any]], None]
_APART = ("diffusers", "transformers", "huggingface_hub")   # whose loggers pass nothing on once they are imported


@contextlib.contextmanager
def logs_told(tell: Tell) -> Iterator[Tell]:
    """Inside, what is logged in this process is told too. Yields `tell` for whoever else tells something meanwhile: one
    event at a time, whatever thread it comes from."""
    handler, loggers = _Telling(tell), [logging.getLogger(), *map(logging.getLogger, _APART)]
    for logger in loggers:
        logger.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield handler.tell
    finally:
        logging.captureWarnings(False)
        for logger in loggers:
            logger.removeHandler(handler)


def log_again(told: dict[str, Any]) -> None:
    """Log here what was logged there; this process's own handlers and redaction see it as their own."""
    logging.getLogger(told["logger"]).log(told["level"], "%s", told["message"])


class _Telling(logging.Handler):
    def __init__(self, tell: Tell):
        super().__init__(logging.WARNING)
        self._tell, self._telling = tell, False     # guarded by the handler's own lock, which its thread may take again

    def tell(self, event: dict[str, Any]) -> None:
        """One event at a time."""
        with self.lock:
            self._telling = True
            try:
                self._tell(event)
            finally:
                self._telling = False

    def emit(self, record: logging.LogRecord) -> None:
        seen = getattr(record, "told", False)       # by a logger below the root
        if not seen and not self._telling:      # else it is what telling itself logs
            record.told = True
            self.tell({"log": {"level": record.levelno, "logger": record.name, "message": self.format(record)}})
