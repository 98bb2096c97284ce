"""The store behind DVC's remote, wrong from the start or away at the push: `fewstep run` on a real one."""

import subprocess
import sys
import time

import pytest

from tests.faults.rows import line_with
from tests.s3_server import S3Server


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A server that a test may stop."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def remote(project, request):
    """The project, whose outputs go to the store."""
    address = f"s3://fewstep/{request.node.name.partition('[')[0].replace('_', '-')}"
    subprocess.run([sys.executable, "-m", "dvc", "remote", "add", "-q", "-f", "-d", "store", address], check=True,
                   cwd=project.root)
    project.git("commit", "-qam", "a remote")
    return project


@pytest.mark.parametrize(("fault", "kind", "change", "words"), [
    ("a wrong secret for S3", "environment", {"AWS_SECRET_ACCESS_KEY": "wrong-secret"}, "its secret is wrong"),
    ("a key for S3 that may only read", "reader", {}, "may not write objects"),
])
def test_a_store_that_refuses_stops_a_run_before_any_stage(remote, store, fault, kind, change, words, seen):
    environment = getattr(store, kind) | change
    done = remote.fewstep("run", code=2, **environment)
    assert words in done.stderr and remote.journal() == [] and "no run yet" in remote.fewstep("status", code=4).stderr
    assert words in remote.fewstep("run", "--isolated", code=2, **environment).stderr
    found = {item["topic"]: item for item in remote.json("doctor", code=None, **environment)}
    assert found["storage"]["level"] == "error" and words in found["storage"]["text"]
    seen(fault=fault, code=2, lost="nothing: no stage begins", message=line_with(done.stderr, words))


@pytest.mark.slow
def test_a_store_that_is_away_at_the_push_leaves_it_to_the_next_run(remote, store, seen):
    remote.control(evaluate={"seconds": 4})
    environment = store.environment | {"FEWSTEP_PUSH_ATTEMPTS": "2"}
    running = remote.start("run", **environment)
    while not any(stage == "evaluate" for stage, *_ in remote.journal()):
        assert running.poll() is None, running.communicate()
        time.sleep(0.1)
    store.stop()
    out, err = running.communicate()
    try:
        assert running.returncode == 0, out + err
        assert "nothing is registered" in out and "sends what was made" in out
        state = remote.json("status", **environment)
        assert state["state"] == "finished" and state["stages"]["register"]["state"] == "waiting"
        found = {item["topic"]: item for item in remote.json("doctor", code=None, **environment)}
        assert found["storage"]["level"] == "warning"
    finally:
        store.start()
    begun = len(remote.journal())
    again = remote.json("run", **environment)
    assert again["stages"]["register"]["state"] == "made"
    assert {stage for stage, *_ in remote.journal()[begun:]} == {"register"}
    prefix = "test-a-store-that-is-away-at-the-push-leaves-it-to-the-next-run/"
    made = {stage["key"] for name, stage in again["stages"].items() if name != "register"}
    announced = {name.rpartition("/")[2].removesuffix(".json") for name in store.names(f"{prefix}fewstep/")}
    assert made <= announced
    seen(fault="S3 killed exactly at the push", code=0, message=line_with(out, "and nothing is registered"),
         resume="the next run sends it and registers: 0")
