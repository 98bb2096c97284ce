"""One schedule that cannot be served ends nothing: it is named, and the others are served."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from fewstep.util.errors import SettingsError
from flows.scheduling.schedules import Schedule, check_cron, folder, load_good, remove, save
from flows.scheduling.served_to import ServedTo
from tasks.storage.workspace import Workspace

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("timezone", ["Europe", "../etc/passwd", "x" * 300, "Euro\0pe", "", "/etc/localtime", "UTC\n"])
def test_what_is_no_time_zone_is_named(timezone):
    with pytest.raises(SettingsError, match="no such time zone"):
        check_cron("0 2 * * *", timezone)


@pytest.mark.parametrize("cron", ["0 2 * * tus", "0 0 * foo *", "R 0 * * *", "H 0 * * *", "0 0 * * mon#6", "é * * * *",
                                  "0 0 0-31/0 * *", "0 0 30 2 *", "0 0 31 4,6 *"])  # fmt: skip
def test_what_prefect_refuses_or_what_never_comes_is_named(cron):
    with pytest.raises(SettingsError, match="--cron"):
        check_cron(cron, "UTC")


def spoil(workspace):
    """A good schedule, and files of seven kinds that hold none."""
    good = save(workspace, Schedule(name="good", cron="0 2 * * *"))
    files = folder(workspace)
    text = good.model_dump_json()
    (files / "weekday.json").write_text(text.replace("good", "weekday").replace("0 2 * * *", "0 2 * * tus"))
    (files / "sets.json").write_text(json.dumps({"name": "sets", "cron": "0 2 * * *", "sets": ["seed 1"]}))
    (files / "zone.json").write_text(text.replace("good", "zone").replace("UTC", "Europe"))
    (files / "cut.json").write_text(text[:20])
    (files / "key.json").write_text(json.dumps({"name": "key", "cron": "0 2 * * *", "crom": 1}))
    (files / "renamed.json").write_text(text)
    (files / "Upper.json").write_text(text.replace("good", "Upper"))
    return good


def test_the_good_schedules_are_told_from_the_others(tmp_path):
    workspace = Workspace(tmp_path)
    good = spoil(workspace)
    found, bad = load_good(workspace)
    assert found == [good] and sorted(bad) == ["Upper", "cut", "key", "renamed", "sets", "weekday", "zone"]
    assert all(f"{name}.json" in why and "\n" not in why for name, why in bad.items())
    assert remove(workspace, "good") == good and not (folder(workspace) / "good.json").exists()


def test_the_list_names_what_is_no_schedule_and_shows_the_others(tmp_path):
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_text("")
    spoil(Workspace(tmp_path))
    bad = ["Upper", "cut", "key", "renamed", "sets", "weekday", "zone"]

    def listed(*options):
        command = [sys.executable, "-m", "flows.cli", "schedule", "list", *options]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, env=environment)

    done = listed()
    assert done.returncode == 3 and "good" in done.stdout and "0 2 * * *" in done.stdout
    assert all(f"{name}.json" in done.stderr for name in bad) and done.stderr.count("error: ") == len(bad)
    assert "unknown key; did you mean 'cron'?" in done.stderr and "pydantic" not in done.stderr
    done = listed("--json")
    items = json.loads(done.stdout)
    assert done.returncode == 3 and [item["name"] for item in items] == ["good", *bad]
    assert [item["name"] for item in items if "error" in item] == bad
    for name in bad:
        (folder(Workspace(tmp_path)) / f"{name}.json").unlink()
    assert listed().returncode == 0


def test_a_schedule_that_is_mistyped_while_serving_leaves_the_others(tmp_path, monkeypatch):
    from prefect.exceptions import PrefectHTTPStatusError

    from flows.scheduling import schedule_runner
    from flows.scheduling.schedule_runner import ScheduleRunner

    deployed, deleted, told = [], [], []

    async def add(flow, *, name, **rest):
        if name == "refused":
            response = httpx.Response(422, request=httpx.Request("POST", "http://h"))
            raise PrefectHTTPStatusError("no", request=response.request, response=response)
        deployed.append(name)
        return uuid.uuid4()

    class Client:
        async def __aenter__(self):
            return self

        async def __aexit__(self, *error):
            pass

        async def delete_deployment(self, identity):
            deleted.append(identity)

        async def read_deployments(self):
            return []

    monkeypatch.setattr(schedule_runner, "get_client", Client)
    workspace = Workspace(tmp_path)
    runner = ScheduleRunner.__new__(ScheduleRunner)
    runner.workspace, runner.say, runner.runner = workspace, told.append, SimpleNamespace(aadd_flow=add)
    runner.deployed, runner.refused, runner.said, runner.to = {}, {}, {}, ServedTo("", None, "")
    good = spoil(workspace)
    save(workspace, Schedule(name="refused", cron="0 2 * * *"))
    for _ in range(3):
        asyncio.run(runner._sync())
    assert deployed == ["good"] and not deleted
    assert sum("is not served" in line for line in told) == len(told) - 1 == 8     # each is said once
    path = folder(workspace) / "good.json"
    path.write_text(path.read_text().replace("0 2", "0 99"))
    asyncio.run(runner._sync())
    assert not deleted and "good" in runner.deployed and "99" in told[-1]
    save(workspace, good.model_copy(update={"cron": "0 3 * * *"}))
    asyncio.run(runner._sync())
    assert deployed == ["good", "good"] and "0 3" in told[-1]
    path.unlink()
    asyncio.run(runner._sync())
    assert len(deleted) == 1
