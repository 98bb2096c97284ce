"""Run records: what is written, what is believed, how a run is found."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fewstep.util.errors import Busy, DataDiffers, NotAvailable, SettingsError
from tasks.engine.manifest import Manifest
from tasks.engine.runner import Outcome
from tasks.storage.workspace import Workspace
from tasks.tracking.all_runs import AllRuns
from tasks.tracking.run_record import FAILED, FINISHED, KILLED, RunError, settings_digest
from tasks.tracking.run_records import RecordObserver, RunStore

SETTINGS = {"name": "digits", "seed": 0, "teacher": {"source": "train"}}


@pytest.fixture
def store(tmp_path):
    return RunStore(Workspace(tmp_path))


def hold_in_a_process(root: Path, run: str) -> subprocess.Popen:
    code = ("import sys, time\nfrom pathlib import Path\nfrom tasks.storage.workspace import Workspace\n"
            "from tasks.tracking.run_records import RunStore\n"
            "store = RunStore(Workspace(Path(sys.argv[1]))); record = store.load(sys.argv[2])\n"
            "with store.hold(record):\n    print('held', flush=True); time.sleep(60)")
    process = subprocess.Popen([sys.executable, "-c", code, str(root), run], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_record_survives_writing_and_reading(store):
    record = store.new(SETTINGS, commit="c0ffee")
    assert store.load(record.id) == record
    assert record.id.startswith("digits-") and record.settings_digest == settings_digest(SETTINGS)


def test_the_kernel_decides_who_is_alive(store):
    record = store.new(SETTINGS)
    assert store.state(record) == KILLED and not store.alive(record.id)
    process = hold_in_a_process(store.root, record.id)
    try:
        assert store.alive(record.id) and store.state(store.load(record.id)) == "running"
        with pytest.raises(Busy, match=record.id), store.hold(record):
            pass
        assert not store.settle(store.load(record.id))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert store.state(store.load(record.id)) == KILLED
    assert store.settle(store.load(record.id)) and not store.settle(store.load(record.id))
    settled = store.load(record.id)
    assert settled.state == KILLED and settled.attempts[0].state == KILLED and settled.attempts[0].ended


def test_a_run_that_ends_in_order_while_it_is_looked_at_is_not_settled(store):
    seen = store.new(SETTINGS)
    with store.hold(store.load(seen.id)):
        store.close(store.load(seen.id), FINISHED)
    assert seen.state == "running" and not store.settle(seen)
    assert store.load(seen.id).state == FINISHED


def test_the_unfinished_run_with_the_same_settings_is_found(store):
    runs, root = AllRuns(store.workspace), str(store.root)
    assert runs.newest_in(root, settings_digest(SETTINGS)) is None
    record = store.new(SETTINGS)
    store.close(record, FAILED, RunError(message="no"))
    found = runs.newest_in(root, record.settings_digest)
    assert found.record.id == record.id and found.can_be_continued
    assert runs.newest_isolated(record.settings_digest) is None
    assert runs.newest_in("/elsewhere", record.settings_digest) is None
    assert runs.newest_in(root, settings_digest(SETTINGS | {"seed": 1})) is None
    store.close(record, FINISHED)
    assert not runs.newest_in(root, record.settings_digest).can_be_continued


def test_runs_are_found_by_beginning_or_end_and_newest_first(store):
    with pytest.raises(NotAvailable, match="no run yet"):
        store.find()
    ids = ["zebra-20260101-000000-0001", "digits-20260102-000000-0002", "my-digits-20260103-000000-0003"]
    for run in ids:
        store.new(SETTINGS, run=run)
    assert store.ids() == ids[::-1]
    assert store.find().id == ids[2] and store.find("0001").id == ids[0] and store.find("zebra").id == ids[0]
    store.new(SETTINGS, run="zebra-20251231-000000-0009")
    with pytest.raises(SettingsError, match="'zebra' fits 2 runs"):
        store.find("zebra")
    with pytest.raises(SettingsError, match="no run 'nothing'"):
        store.find("nothing")


def test_the_observer_writes_states_progress_and_errors(store):
    record = store.new(SETTINGS)
    observer = RecordObserver(store, record)
    observer.stage_started("shard", "k1")
    observer.stage_progress("shard", 10, 20, "images", {"loss": 0.5}, 10)
    observer.stage_warned("shard", "two images are corrupt")
    manifest = Manifest(stage="shard", key="k1", digest="d1", files=(), settings={}, seed=0, inputs={}, given={},
                        code="", fingerprint=[], summary={}, versions={})
    observer.stage_finished("shard", Outcome("made", manifest, 1.0), {})
    observer.stage_started("teacher", "k2")
    observer.stage_failed("teacher", ValueError("first line\nsecond"))
    stages = store.load(record.id).stages
    assert (stages["shard"].state, stages["shard"].digest, stages["shard"].done) == ("made", "d1", 20)
    assert stages["shard"].warnings == ["two images are corrupt"]
    assert (stages["teacher"].state, stages["teacher"].error) == ("failed", "first line")


def test_secrets_stay_out_of_the_record(store, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-value")
    record = store.new(SETTINGS)
    store.close(record, FAILED, RunError(message="http://user:word@host refused very-secret-value"))
    text = store.path(record.id).read_text()
    assert "very-secret-value" not in text and "word@" not in text


def test_a_damaged_record_is_named(store):
    record = store.new(SETTINGS)
    store.path(record.id).write_text("{")
    with pytest.raises(DataDiffers, match=record.id):
        store.load(record.id)
    store.path(record.id).write_text(json.dumps({"format": 99}))
    with pytest.raises(DataDiffers, match="format 1"):
        store.load(record.id)


OLDER = """{
 "id": "digits-20260101-120000-ab12", "name": "digits", "root": "/somewhere",
 "settings": {"name": "digits", "seed": 0}, "settings_digest":
  "11531bf89ffbe9d5762bed9caec972aadde261370298765b54bd5a09eba950de", "created": "2026-01-01T12:00:00.653Z",
 "format": 1, "state": "failed", "isolated": true, "origin": "nightly", "commit": "c0ffee", "modified": true,
 "attempts": [{"pid": 21106, "host": "vm", "started": "2026-01-01T12:00:00.654Z", "ended": null},
              {"pid": 21107, "host": "vm", "started": "2026-01-01T12:00:01.654Z", "ended": "2026-01-01T12:00:03.657Z",
               "state": "failed"}],
 "updated": "2026-01-01T12:00:03.657Z", "ended": "2026-01-01T12:00:03.657Z",
 "mlflow": {"uri": "sqlite:///x", "run": "r1"}, "prefect": {"flow_run": "f1", "state": "Failed"},
 "stages": {"shard": {"state": "stopped", "key": "k1", "digest": null, "done": 10, "total": 20, "unit": "images",
   "started": "2026-01-01T12:00:01.655Z", "ended": "2026-01-01T12:00:03.656Z", "seconds": 2.001, "error": null,
   "warnings": ["two images are corrupt"], "metrics": {"loss": NaN}}},
 "error": {"stage": "shard", "message": "boom", "command": "fewstep resume digits-20260101-120000-ab12"}
}"""
"""A record as versions before pydantic models wrote it; `error` as Prefect's hook stored it, without kind and hint."""


def test_a_record_that_an_older_version_wrote_is_read(store):
    store.folder.mkdir(parents=True)
    store.path("digits-20260101-120000-ab12").write_text(OLDER)
    record = store.load("digits-20260101-120000-ab12")
    assert [attempt.state for attempt in record.attempts] == [None, "failed"] and record.origin == "nightly"
    assert record.stages["shard"].seconds == 2.001 and math.isnan(record.stages["shard"].metrics["loss"])
    assert (record.error.message, record.error.hint) == ("boom", None) and record.mlflow["run"] == "r1"
    store.save(record)
    assert store.load(record.id).attempts == record.attempts


@pytest.mark.parametrize(("before", "after", "said"), [
    ('"done": 10', '"done": "ten"', "stages.shard.done: expected an integer ≥ 0, got 'ten'"),
    ('"origin"', '"orign"', "orign: unknown key; did you mean 'origin'"),
    ('"started": "2026-01-01T12:00:01.655Z"', '"started": "noon"',
     "stages.shard.started: expected a moment such as 2026-01-31T12:00:00Z, got 'noon'"),
    ('"started": "2026-01-01T12:00:00.654Z"', '"started": "2026-01-01T12:00"',
     "attempts.0.started: expected a moment"),
    ('"state": "stopped"', '"state": "stoped"', "stages.shard.state: expected waiting or running"),
    ('"seconds": 2.001', '"seconds": NaN', "stages.shard.seconds: expected a number"),
    ('"seed": 0', '"seed": 1', "settings: they were altered, for their digest is another"),
    ('"id": "digits-20260101', '"id": "../digits-20260101', "id: the record is of another run, '../digits"),
    ('"name": "digits", "root"', '"name": "digits", "name": "digit", "root"', "not readable as JSON: the key 'name'"),
    ('"pid": 21106', '"pid": null', "attempts.0.pid: expected an integer, got null"),
    ('"name": "digits", "root"', '"root"', "name: missing; expected text"),
])
def test_a_record_edited_by_hand_is_refused_with_its_file_and_field(store, before, after, said):
    store.folder.mkdir(parents=True)
    path = store.path("digits-20260101-120000-ab12")
    path.write_text(OLDER.replace(before, after))
    with pytest.raises(DataDiffers) as refused:
        store.load("digits-20260101-120000-ab12")
    assert str(refused.value).startswith(f"{path}: {said}")


def test_a_record_is_never_half_written(store):
    record = store.new(SETTINGS)
    process = subprocess.Popen([sys.executable, "-c", (
        "import sys\nfrom pathlib import Path\nfrom tasks.storage.workspace import Workspace\n"
        "from tasks.tracking.run_records import RunStore\n"
        "store = RunStore(Workspace(Path(sys.argv[1]))); record = store.load(sys.argv[2])\n"
        "print('go', flush=True)\nwhile True: store.save(record)"), str(store.root), record.id],
        stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "go\n"
    for _ in range(200):
        assert store.load(record.id).id == record.id
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert store.load(record.id).id == record.id
