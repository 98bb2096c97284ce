"""`fewstep status --all`: the newest runs, a page at a time, and no record of another page is read."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from flows.cli import app
from tasks.storage.workspace import Workspace
from tasks.tracking.run_records import RunStore

RUNS = 53


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Ids of the runs, newest first; the oldest record is damaged."""
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_text("{}\n")
    store, first = RunStore(Workspace(tmp_path)), datetime(2026, 1, 1, tzinfo=UTC)
    moments = [first + timedelta(hours=number) for number in range(RUNS)]
    made = [store.new({"name": "digits"}, run=f"digits-{moment:%Y%m%d-%H%M%S}-{number:04d}").id
            for number, moment in enumerate(moments)]  # fmt: skip
    store.path(made[0]).write_text("{")
    monkeypatch.chdir(tmp_path)
    return made[::-1]


def status(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["status", "--all", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_newest_are_shown_and_where_the_older_are(runs):
    text = status()
    assert [line.split()[0] for line in text.splitlines()[:50]] == runs[:50]
    assert text.splitlines()[50:] == ["3 older: fewstep status --all --page 2"]
    assert [run["id"] for run in json.loads(status("--json"))] == runs[:50]


def test_pages_of_another_size(runs):
    text = status("--limit", "20", "--page", "2")
    assert [line.split()[0] for line in text.splitlines()[:-1]] == runs[20:40]
    assert text.splitlines()[-1] == "13 older: fewstep status --all --limit 20 --page 3"
    assert [run["id"] for run in json.loads(status("--limit", "4", "--page", "13", "--json"))] == runs[48:52]
    assert status("--limit", "20", "--page", "9").strip() == "there are 53 runs, and none on page 9"
