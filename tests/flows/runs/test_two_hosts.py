"""Two hosts, each a clone with servers of its own, on one S3 store and one MLflow: real commands, real deaths."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
from mlflow.tracking import MlflowClient

from tasks.storage.sharing import lease
from tests.faults.rows import line_with
from tests.flows.conftest import Project, make_project
from tests.s3_server import BUCKET, free_ports

pytestmark = pytest.mark.timeout(0)     # busy machines are slow, and every wait here ends with a process


@pytest.fixture(scope="module")
def mlflow_url(tmp_path_factory):
    folder, (port,) = tmp_path_factory.mktemp("mlflow"), free_ports(1)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
               "--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/files"]
    settings = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(command, env=settings, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    while True:
        assert process.poll() is None, (folder / "server.log").read_text()[-2000:]
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
            break
        except OSError:
            time.sleep(0.2)
    yield f"http://127.0.0.1:{port}"
    os.killpg(process.pid, signal.SIGTERM)
    process.wait()


class Host(Project):
    """A clone whose commands use the shared servers."""

    shared: dict[str, str]

    def environment(self, **more: str) -> dict[str, str]:
        return super().environment(**{"FEWSTEP_HOST": self.root.name, lease.SECONDS: "6", **self.shared, **more})

    def start(self, *arguments: str, **more: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-m", "flows.cli", *arguments], cwd=self.root, text=True,
                                env=self.environment(**more), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                stdin=subprocess.DEVNULL, start_new_session=True)

    def fewstep(self, *arguments: str, code: int | None = 0, **more: str) -> subprocess.CompletedProcess:
        process = self.start(*arguments, **more)
        out, err = process.communicate()
        assert code is None or process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def begins(self, stage: str, process: subprocess.Popen) -> None:
        """Waits until a unit of the stage is begun."""
        while not any(line[0] == stage for line in self.journal()):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)

    def output(self, stage: str) -> bytes:
        return (self.root / "data" / stage / "result.txt").read_bytes()


@pytest.fixture(scope="module")
def hosts(tmp_path_factory, s3_server, mlflow_url):
    folder = tmp_path_factory.mktemp("hosts")
    make_project(folder / "one")
    shutil.copytree(folder / "one", folder / "two", symlinks=True)
    made = [Host(folder / name) for name in ("one", "two")]
    for host in made:
        host.shared = {**s3_server.environment, "MLFLOW_TRACKING_URI": mlflow_url}
        (host.root / ".dvc" / "config.local").write_text(
            f"['remote \"store\"']\n    url = s3://{BUCKET}/two-hosts\n[core]\n    remote = store\n")
    return made


def runs(mlflow_url: str) -> dict[str, str]:
    """Name and status of all pipeline runs in MLflow."""
    client = MlflowClient(mlflow_url)
    found = client.search_runs([item.experiment_id for item in client.search_experiments()])
    return {run.info.run_name: run.info.status for run in found if run.data.tags.get("fewstep.kind") == "pipeline"}


@pytest.fixture(scope="module")
def killed(hosts, mlflow_url, s3_server):
    """A run of host one that was killed while it distilled; what host two saw and could do before."""
    one, two = hosts
    one.control(distill={"seconds": 3600})
    process = one.start("run")
    one.begins("distill", process)
    run = one.json("status")["id"]
    seen = {"status": two.json("status"), "list": two.fewstep("status", "--all").stdout,
            "resume": two.fewstep("resume", run, code=5).stderr, "reconcile": two.json("reconcile"),
            "mlflow": runs(mlflow_url), "announced": s3_server.names("two-hosts/fewstep/")}
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    one.control()
    return run, seen


def test_every_host_sees_the_run_and_none_can_disturb_it(killed):
    run, seen = killed
    assert seen["status"]["id"] == run and seen["status"]["alive"] and not seen["status"]["here"]
    assert seen["status"]["state"] == "running" and seen["status"]["host"] == "one"
    assert run in seen["list"] and "on one" in seen["list"]
    assert "is being worked on now on one" in seen["resume"]
    assert seen["reconcile"]["changed"] == 0 and seen["reconcile"]["skipped"] == []
    assert seen["mlflow"] == {run: "RUNNING"}


def test_what_is_finished_is_shared_before_the_run_has_ended(killed, hosts):
    keys = {hosts[0].json("status")["stages"][stage]["key"] for stage in ("shard", "classifier", "teacher")}
    announced = {name.rpartition("/")[2].removesuffix(".json") for name in killed[1]["announced"]
                 if "/leases/" not in name and "/work/" not in name}
    assert keys <= announced


@pytest.fixture(scope="module")
def continued(killed, hosts):
    """What host two made of it."""
    run, two = killed[0], hosts[1]
    while (done := two.fewstep("resume", run, "--restore", "--json", code=None)).returncode == 5:
        time.sleep(1)       # the lease has not lapsed yet
    return done


def test_another_host_continues_a_killed_run_where_it_stopped(killed, continued, hosts, mlflow_url, seen):
    (run, _), (one, two) = killed, hosts
    assert continued.returncode == 0, continued.stderr
    assert "continuing what one left" in continued.stderr
    assert not any(line[0] in ("shard", "classifier", "teacher") for line in two.journal())
    status = two.json("status", run)
    assert status["state"] == "finished" and [attempt["host"] for attempt in status["attempts"]] == ["one", "two"]
    assert status["stages"]["teacher"]["state"] == "restored" and status["stages"]["distill"]["state"] == "made"
    assert runs(mlflow_url) == {run: "FINISHED"}
    told = one.json("status", run)
    assert told["state"] == "finished" and told["host"] == "two" and not told["alive"]
    assert "nothing to continue" in one.fewstep("resume", run).stdout
    assert one.json("reconcile")["mlflow"] == [] and runs(mlflow_url) == {run: "FINISHED"}
    seen(fault="SIGKILL of a host's run", code=None, resume="`fewstep resume` on another host once the lease lapsed: 0")


def test_the_first_host_takes_over_what_the_other_made(continued, hosts):
    one, two = hosts
    before = len(one.journal())
    result = one.json("run")
    assert result["stages"]["distill"]["state"] == "restored"
    assert not any(line[0] != "register" for line in one.journal()[before:])
    for stage in ("student", "teacher", "evaluation"):
        assert one.output(stage) == two.output(stage)


@pytest.mark.slow
def test_a_host_that_slept_beyond_its_lease_ends_and_leaves_the_run_to_who_took_it_over(hosts, mlflow_url, continued,
                                                                                        seen):
    one, two = hosts
    one.control(evaluate={"seconds": 3600})
    before = len(one.journal())
    process = one.start("run", "--set", "evaluate.samples=66")
    while not any(line[0] == "evaluate" for line in one.journal()[before:]):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    run = one.json("status")["id"]
    os.killpg(process.pid, signal.SIGSTOP)
    while (done := two.fewstep("resume", run, "--restore", code=None)).returncode == 5:
        time.sleep(1)
    assert done.returncode == 0, done.stderr
    one.control()
    os.killpg(process.pid, signal.SIGCONT)
    _, err = process.communicate()
    assert process.returncode == 5 and "was taken over by run" in err, err
    assert runs(mlflow_url)[run] == "FINISHED"
    assert one.json("status", run)["state"] == "finished" and one.json("status", run)["host"] == "two"
    seen(fault="SIGSTOP of a host's run beyond its lease, taken over by another, then SIGCONT", code=5,
         message=line_with(err, "was taken over by run"), resume="`fewstep resume` on another host: 0")


@pytest.mark.slow
def test_a_run_that_is_told_to_stop_is_continued_elsewhere_at_once(hosts):
    one, two = hosts
    one.control(distill={"seconds": 1})
    before = len(one.journal())
    process = one.start("run", "--set", "distill.images=100000", **{lease.SECONDS: "3600"})
    while ["distill", "01"] not in [line[:2] for line in one.journal()[before:]]:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    one.control(distill={"seconds": 3600})
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert process.returncode == 130 and "distill: work so far is in the shared store" in out, out + err
    one.control()
    before = len(two.journal())
    result = two.json("resume", one.json("status")["id"], "--restore")
    assert result["state"] == "finished" and result["stages"]["distill"]["state"] == "made"
    assert [line[1] for line in two.journal()[before:] if line[0] == "distill"] == ["01", "02"]
