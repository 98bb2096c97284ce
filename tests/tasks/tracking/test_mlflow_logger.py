"""A pipeline run in MLflow across failures: the same runs, every point once, none lost; many first users."""

import os
import signal
from types import SimpleNamespace

import pytest

from fewstep.util.errors import NotAvailable
from tasks.engine.events import Observer, Observers
from tasks.tracking import mlflow_logger
from tasks.tracking.mlflow_client import Tracking
from tasks.tracking.mlflow_logger import MlflowObserver
from tests.children import Gate, OtherProcess
from tests.registry_world import with_database

SETTINGS = {"name": "digits", "seed": 0, "distill": {"recipe": "kd"}}


def workspace(folder, uri=None):
    if uri is None and not (folder / "mlflow.db").exists():
        with_database(folder)
    return SimpleNamespace(root=folder, shared=folder, mlflow_uri=uri or f"sqlite:///{folder}/mlflow.db")


def observer(folder, run="run-1", settings=SETTINGS, uri=None):
    return MlflowObserver(workspace(folder, uri), settings, SimpleNamespace(id=run))


def outcome(state="made"):
    """The part of an outcome that is logged."""
    return SimpleNamespace(state=state, manifest=SimpleNamespace(digest="d" * 64, summary={"samples": 7}))


def runs(watcher):
    return watcher.tracking.client.search_runs([watcher.experiment_id])


def points(watcher, stage="distill"):
    (run,) = [run for run in runs(watcher) if run.data.tags.get("fewstep.stage") == stage]
    history = watcher.tracking.client.get_metric_history
    return {name: [(m.step, m.value) for m in history(run.info.run_id, name)] for name in run.data.metrics}


def test_a_run_becomes_a_parent_and_a_child_per_stage_that_worked(tmp_path):
    watcher = observer(tmp_path)
    watcher.start({"git.commit": "abc"})
    watcher.stage_started("shard", "k0")
    watcher.stage_finished("shard", outcome("current"), {})
    watcher.stage_started("distill", "k1")
    watcher.stage_progress("distill", 128, 256, metrics={"loss": 0.5}, step=128)
    watcher.stage_warned("distill", "careful")
    watcher.stage_finished("distill", outcome(), {"seconds": 2.5})
    watcher.finish()
    parent, child = sorted(runs(watcher), key=lambda run: run.data.tags["fewstep.kind"])
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    assert parent.data.params["distill.recipe"] == "kd" and parent.data.tags["fewstep.warning.distill"] == "careful"
    assert child.data.tags["fewstep.digest"] == "d" * 64
    assert child.data.metrics["loss"] == 0.5 and child.data.metrics["cost/seconds"] == 2.5
    assert not list((tmp_path / "metrics").glob("*")) if (tmp_path / "metrics").exists() else True


def train(folder, first, last, die):
    mlflow_logger.FLUSH_POINTS = 7  # so that points lie on both sides of the kill
    watcher = observer(folder)
    watcher.start()
    watcher.stage_started("distill", "key")
    for step in range(first, last):
        watcher.stage_progress("distill", step, 1000, metrics={"loss": 1 / step}, step=step)
    if die:
        os.kill(os.getpid(), signal.SIGKILL)
    watcher.stage_finished("distill", outcome(), {})
    watcher.finish()


def test_killed_and_resumed_every_point_is_there_once(tmp_path):
    with_database(tmp_path)
    assert OtherProcess(lambda: train(tmp_path, 1, 31, die=True)).wait() == (-signal.SIGKILL, "")
    # the checkpoint lay at 25: 26 to 30 are computed again, what the kill left undelivered below 25 is not;
    # MLflow's noise stays out of the terminal
    assert OtherProcess(lambda: train(tmp_path, 26, 41, die=False)).wait() == (0, "")
    watcher = observer(tmp_path)
    watcher.start()
    assert points(watcher)["loss"] == [(step, 1 / step) for step in range(1, 41)]
    assert len(runs(watcher)) == 2


def test_a_changed_stage_key_gets_a_run_of_its_own(tmp_path):
    watcher = observer(tmp_path)
    for key, value in (("before", 1.0), ("after", 2.0)):
        watcher.stage_started("distill", key)
        watcher.stage_progress("distill", 1, 2, metrics={"loss": value}, step=1)
        watcher.stage_failed("distill", ValueError("boom"))
    found = {run.data.tags["fewstep.key"]: run for run in runs(watcher) if "fewstep.key" in run.data.tags}
    assert {key: run.data.metrics["loss"] for key, run in found.items()} == {"before": 1.0, "after": 2.0}
    assert all(run.info.status == "FAILED" and run.data.tags["fewstep.error"] == "boom" for run in found.values())


def use(folder, number):
    address = f"sqlite:///{folder}/mlflow.db"
    watcher = observer(folder, run=f"run-{number}", uri=address)
    watcher.stage_started("shard", "key")
    watcher.stage_progress("shard", 5, 5, metrics={"loss": 1.0}, step=5)
    watcher.stage_finished("shard", outcome(), {})
    watcher.finish()


def test_ten_processes_start_on_an_empty_database_at_once(tmp_path):
    gate = Gate(tmp_path)

    def wait_and_use(number):
        gate.wait()
        use(tmp_path, number)

    children = [OtherProcess(lambda number=number: wait_and_use(number)) for number in range(10)]
    gate.open()
    assert [child.wait() for child in children] == [(0, "")] * 10
    watcher = observer(tmp_path)
    watcher.start()
    found = [run.data.tags["fewstep.run"] for run in runs(watcher)]
    assert sorted(found) == sorted(2 * [f"run-{number}" for number in range(10)])


def test_points_of_a_stage_outlive_a_server_that_goes_away(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    watcher = observer(tmp_path)
    watcher.stage_started("distill", "key")
    watcher.stage_progress("distill", 1, 9, metrics={"loss": 1.0}, step=1)
    real, watcher.tracking = watcher.tracking, Tracking("http://127.0.0.1:9", None, tmp_path / "locks")
    watcher._stages["distill"].next_flush = 0.0
    watcher.stage_progress("distill", 2, 9, metrics={"loss": 2.0}, step=2)  # no error: training goes on
    with pytest.raises(NotAvailable):
        watcher.stage_finished("distill", outcome(), {})
    assert real.uri.startswith('sqlite')
    again = observer(tmp_path)
    again.stage_started("distill", "key")
    again.stage_finished("distill", outcome(), {})
    assert points(again)["loss"] == [(1, 1.0), (2, 2.0)]


def test_secrets_never_reach_the_database(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-in-the-environment")
    server = {"remote": "https://me:canary-in-an-address@host/x", "token": "canary-token"}
    settings = {"name": "digits", "server": server}
    watcher = observer(tmp_path, settings=settings)
    watcher.start({"note": "canary-in-the-environment"})
    watcher.stage_started("shard", "key")
    watcher.stage_warned("shard", "login with canary-in-the-environment failed")
    watcher.stage_failed("shard", ValueError("no answer from https://me:canary-in-an-address@host"))
    watcher.finish("FAILED")
    found = [path for path in tmp_path.rglob("*") if path.is_file() and b"canary" in path.read_bytes()]
    assert not found
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(runs(watcher))


def test_a_batch_whose_answer_was_lost_is_sent_again_and_kept_once(tmp_path, monkeypatch):
    watcher = observer(tmp_path)
    watcher.stage_started("distill", "key")
    deliver = watcher.tracking.client.log_batch

    def lose_the_answer(*args, **kwargs):
        deliver(*args, **kwargs)
        if "metrics" in kwargs:
            raise NotAvailable("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(watcher.tracking.client, "log_batch", lose_the_answer, raising=False)
        watcher.stage_progress("distill", 1, 9, metrics={"loss": 1.0}, step=1)  # no error: training goes on
    assert [point.name for point in watcher._stages["distill"].buffer.points if point.step == 1][0] == "loss", "waits"
    watcher.stage_progress("distill", 2, 9, metrics={"loss": 2.0}, step=2)
    watcher.stage_finished("distill", outcome(), {})
    assert points(watcher)["loss"] == [(1, 1.0), (2, 2.0)]


def test_stages_learn_the_run_that_they_belong_to(tmp_path):
    watcher = observer(tmp_path)
    everybody = Observers([Observer(), watcher])
    assert everybody.pipeline_run() is None
    parent = watcher.start()
    assert everybody.pipeline_run() == parent
