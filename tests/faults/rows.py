"""Rows of docs/faults.md: what a test has seen of a fault. The campaign (`tests.faults.campaign`) gathers them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import Field

from fewstep.util.config import Strict

FILE = "FEWSTEP_FAULT_ROWS"
"""Environment variable: where rows are appended; without it tests run as ever."""
_PASSING = (
    (r"\d{8}-\d{6}-[0-9a-f]+", "RUN"), (r"s3://[\w./-]+", "s3://BUCKET"), (r"(?<![\w./:])/[\w./-]*/", "…/"),
    (r"127\.0\.0\.1:\d+", "HOST"), (r"[0-9a-f]{12,}", "…"), (r"process \d+", "process …"),
)  # fmt: skip
"""What differs from run to run in a message, and what stands for it."""


class Row(Strict):
    """What came of a fault.

    Attributes:
        test: that has seen it.
        fault: what was done.
        lost: what the fault cost; "nothing" is said where bytes, units of work, metrics and records were compared.
        code: exit code of the command that met the fault; None for one that was killed.
        message: what it said of it; empty where it need not say anything.
        resume: what was done afterwards, and its exit code.
    """

    test: str = ""
    fault: str
    lost: str = "nothing"
    code: int | None
    message: str = ""
    resume: str = Field(default="not needed")


@pytest.fixture
def seen(request) -> Callable[..., None]:
    """Called by a test that has seen a fault through, with the fields of a `Row`. It marks the test as one of the
    campaign's."""

    def see(**fields) -> None:
        row = Row(test=request.node.nodeid, **fields)
        if path := os.environ.get(FILE):
            with open(path, "a", encoding="utf-8") as file:
                file.write(row.model_dump_json() + "\n")

    return see


def read(path: Path) -> list[Row]:
    """The rows in a file; none where there is no file."""
    return [Row.model_validate(json.loads(line)) for line in path.read_text().splitlines()] if path.is_file() else []


def line_with(text: str, words: str) -> str:
    """The message in `text` that holds `words`, without what differs from run to run."""
    flowing = " ".join(text.split())
    assert words in flowing, text
    begin = max(flowing.rfind(mark, 0, flowing.index(words)) for mark in ("error: ", "warning: ", "! "))
    end = flowing.index(words) + len(words)
    message = flowing[max(begin, 0):end]
    for pattern, name in _PASSING:
        message = re.sub(pattern, name, message)
    return message
