"""Documents whose rows come of tests: each test that has a certain fixture writes what it saw, and is run once."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.project import ROOT


class Chosen:
    """Of pytest's tests those that have `fixture`, except those whose rows are known."""

    def __init__(self, fixture: str, known: set[str]):
        self.fixture, self.known = fixture, known
        self.failed: list[str] = []

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if self.fixture in getattr(item, "fixturenames", ())
                  and item.nodeid not in self.known]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or report.skipped:
            self.failed.append(report.nodeid)


def write_table(title: str, arguments: Iterable[str] | None, *, fixture: str, mention: str, variable: str,
                read: Callable[[Path], list[Any]], document: str,
                write: Callable[[list[Any]], object]) -> int:  # fmt: skip
    """Runs the tests and writes the document, where all of them pass; returns the exit code.

    arguments: of the command: `--keep FILE`, and further ones of pytest, with which nothing is written. mention: what
    stands in the files that hold such tests. variable: of the environment, by which a test knows the file of the rows.
    read: gives rows of that file, each with its `test`. document: its name. write: writes it from the rows.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--keep", type=Path, help="JSON lines of rows, to continue from")
    chosen, others = parser.parse_known_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = (chosen.keep or Path(folder) / "rows.jsonl").resolve()
        os.environ[variable] = str(path)
        ran = Chosen(fixture, {row.test for row in read(path)})
        files = [str(file) for file in sorted((ROOT / "tests").rglob("test_*.py")) if mention in file.read_text()]
        code = pytest.main(["-m", "", "-n", "0", "-v", "--rootdir", str(ROOT), *files, *others], plugins=[ran])
        if code in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) and not ran.failed and not others:
            write(read(path))
            return 0
    print(f"{document} stays as it is; failed or skipped: {ran.failed}", file=sys.stderr)
    return int(code) or 1
