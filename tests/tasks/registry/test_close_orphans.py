"""`fewstep reconcile` in MLflow: what dead runs left open is closed, and nothing else."""

import os
import signal

from tasks.registry.close_orphans import close_orphans
from tests.children import OtherProcess
from tests.registry_world import with_database
from tests.tasks.tracking.test_mlflow_logger import observer, runs, workspace


def test_reconcile_closes_what_dead_runs_left_open_and_nothing_else(tmp_path):
    with_database(tmp_path)

    def die_in_a_stage(name):
        watcher = observer(tmp_path, run=name)
        watcher.stage_started("distill", "key")
        watcher.stage_progress("distill", 1, 2, metrics={"loss": 1.0}, step=1)
        os.kill(os.getpid(), signal.SIGKILL)

    for name in ("dead", "failed", "alive"):
        assert OtherProcess(lambda name=name: die_in_a_stage(name)).wait()[0] == -signal.SIGKILL
    place, states = workspace(tmp_path), {"dead": "killed", "failed": "failed", "alive": "running"}
    done = close_orphans(place, is_abandoned=lambda name: name != "alive", states=states)
    assert len(done) == 4 and close_orphans(place, is_abandoned=lambda name: name != "alive", states=states) == []
    watcher = observer(tmp_path, run="alive")
    watcher.start()
    found = {(run.data.tags["fewstep.run"], run.info.status) for run in runs(watcher)}
    assert found == {("dead", "KILLED"), ("failed", "FAILED"), ("alive", "RUNNING")}
    unused = workspace(tmp_path / "new", "sqlite:////nowhere/mlflow.db")
    assert close_orphans(unused, is_abandoned=bool, states={}) == []


def test_a_run_that_ends_in_order_while_reconcile_looks_keeps_its_end(tmp_path):
    with_database(tmp_path)
    watcher = observer(tmp_path, run="ending")
    watcher.start()

    def ends_meanwhile(_name: str) -> bool:
        watcher.finish("FINISHED")
        return True

    assert close_orphans(workspace(tmp_path), is_abandoned=ends_meanwhile, states={"ending": "running"}) == []
    assert {run.info.status for run in runs(watcher)} == {"FINISHED"}
