"""Run records: what is written, what is believed, how a run is found."""

import json
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
from tasks.tracking.run_records import FAILED, FINISHED, KILLED, RecordObserver, RunStore, settings_digest

SETTINGS = {"name": "digits", "seed": 0, "teacher": {"source": "train"}}


@pytest.fixture
def store(tmp_path):
    return RunStore(Workspace(tmp_path))


def hold_in_a_process(root: Path, run: str) -> subprocess.Popen:
    code = ("import sys, time; from tasks.tracking.run_records import RunStore; from tasks.storage.workspace import Workspace\n"
            "from pathlib import Path\n"
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
    assert settled.state == KILLED and settled.attempts[0]["state"] == KILLED and settled.attempts[0]["ended"]


def test_the_unfinished_run_with_the_same_settings_is_found(store):
    assert store.unfinished(settings_digest(SETTINGS), isolated=False) is None
    record = store.new(SETTINGS)
    store.close(record, FAILED, {"message": "no"})
    assert store.unfinished(record.settings_digest, isolated=False).id == record.id
    assert store.unfinished(record.settings_digest, isolated=True) is None
    assert store.unfinished(settings_digest(SETTINGS | {"seed": 1}), isolated=False) is None
    store.close(record, FINISHED)
    assert store.unfinished(record.settings_digest, isolated=False) is None


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
    store.close(record, FAILED, {"message": "http://user:word@host refused very-secret-value"})
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


def test_a_record_is_never_half_written(store):
    record = store.new(SETTINGS)
    process = subprocess.Popen([sys.executable, "-c", (
        "import sys; from tasks.tracking.run_records import RunStore; from tasks.storage.workspace import Workspace; from pathlib import Path\n"
        "store = RunStore(Workspace(Path(sys.argv[1]))); record = store.load(sys.argv[2])\n"
        "print('go', flush=True)\nwhile True: store.save(record)"), str(store.root), record.id],
        stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "go\n"
    for _ in range(200):
        assert store.load(record.id).id == record.id
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert store.load(record.id).id == record.id
