"""What people, files and errors say is shown as it stands: brackets in it are no markup."""

import io

import pytest
from rich.console import Console

from flows.commands.pipeline.status import _list, _show, status_of
from flows.commands.servers import schedule
from flows.runs.plan_view import show_plan
from tasks.engine.plan import PlanItem
from tasks.storage.workspace import Workspace
from tasks.tracking.all_runs import KnownRun
from tasks.tracking.run_record import FAILED, RunError
from tasks.tracking.run_records import RunStore

ODD = "data/[red]x[/y]: its bytes differ, steps: [1, 2] → ['a']"


@pytest.fixture
def out():
    return Console(file=io.StringIO(), width=200)


def test_the_status_of_a_failed_run_says_why_and_what_to_do(tmp_path, out):
    store = RunStore(Workspace(tmp_path))
    record = store.new({"name": "digits"})
    store.close(record, FAILED, RunError(stage="shard", kind="CorruptData", message=ODD, hint="mend [it]"))
    failed = status_of(KnownRun(store.load(record.id), here=True, alive=False))
    _show(failed, out)
    shown = out.file.getvalue()
    assert f"error: shard: {ODD}" in shown and "→ mend [it]" in shown and f"fewstep resume {record.id}" in shown
    _list([failed], out, 1, 50, 1)
    assert "failed" in out.file.getvalue().splitlines()[-1]


def test_a_plan_shows_the_reason_as_it_is(out):
    show_plan([PlanItem("shard", "k", "stale", ODD)], out)
    assert ODD in out.file.getvalue()


def test_a_schedule_shows_its_settings_as_they_are(out):
    item = {"name": "night", "cron": "0 2 * * *", "timezone": "UTC", "sets": ["a=[bold]", "b=[/x]"], "pool": None,
            "served_by": None}  # fmt: skip
    schedule._show([item], out)
    assert "a=[bold] b=[/x]" in out.file.getvalue()
