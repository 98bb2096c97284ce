"""Schedules and `fewstep serve`: what is scheduled runs by itself, and nothing outlives the process that started it."""

import json
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from fewstep.util.errors import SettingsError
from flows.scheduling.schedules import Schedule, check_cron, load_good, remove, save
from tasks.storage.workspace import Workspace


@pytest.mark.parametrize(("cron", "words"), [
    ("0 2 * *", "five fields"), ("0 0 2 * * *", "five fields"), ("61 * * * *", r"minute \(0 to 59\)"),
    ("0 24 * * *", r"hour \(0 to 23\)"), ("0 0 0 * *", r"day of the month \(1 to 31\)"),
    ("0 0 * 13 *", r"month \(1 to 12\)"), ("*/0 * * * *", "not a cron line"), ("0 0 * * 8", r"weekday \(0 to 7\)"),
])
def test_a_bad_cron_line_is_named(cron, words):
    with pytest.raises(SettingsError, match=words):
        check_cron(cron, "UTC")


@pytest.mark.parametrize("cron", ["0 2 * * *", "*/15 9-17 * * mon-fri", "0,30 * 1 jan 7"])
def test_good_cron_lines(cron):
    check_cron(cron, "Europe/Berlin")
    with pytest.raises(SettingsError, match="no such time zone"):
        check_cron(cron, "Nowhere/Land")


def test_schedules_are_files(tmp_path):
    workspace = Workspace(tmp_path)
    assert load_good(workspace) == ([], {})
    saved = save(workspace, Schedule(name="nightly", cron="0 2 * * *", sets=("seed=1",)))
    assert load_good(workspace) == ([saved], {}) and saved.created
    with pytest.raises(SettingsError, match="did you mean 'nightly'"):
        remove(workspace, "nightl")
    remove(workspace, "nightly")
    assert load_good(workspace) == ([], {})
    with pytest.raises(SettingsError, match="--name"):
        save(workspace, Schedule(name="Nightly Run", cron="0 2 * * *"))


def test_schedules_from_the_command_line(shared_project):
    done = shared_project.fewstep("schedule", "--cron", "0 2 * * *", "--set", "distill.recipe=nonsense", code=2)
    assert "unknown recipe" in done.stderr and shared_project.json("schedule", "list") == []
    assert "nothing is serving" in shared_project.fewstep("schedule", "--cron", "0 2 * * *", "--set", "seed=3").stdout
    listed = shared_project.json("schedule", "list")
    assert [(item["name"], item["cron"], item["sets"], item["served_by"]) for item in listed] == [
        ("nightly", "0 2 * * *", ["seed=3"], None)]
    assert "nothing is serving" in shared_project.fewstep("schedule", "list").stdout
    pool = shared_project.fewstep("schedule", "--cron", "0 2 * * *", "--pool", "gpus", code=2)
    assert "PREFECT_API_URL" in pool.stderr
    shared_project.fewstep("schedule", "remove", "nightly")
    assert shared_project.json("schedule", "list") == []


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition):
    while not (found := condition()):
        time.sleep(0.2)
    return found


def ended(processes):
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def run_of(project, state):
    """The newest run when it is in `state`."""
    done = project.fewstep("status", "--json", code=None)
    data = json.loads(done.stdout) if done.returncode == 0 else {}
    return data if data.get("state") == state else None


@pytest.mark.slow
def test_a_schedule_runs_isolated_and_nothing_outlives_serve(project, seen):
    project.control(teacher={"seconds": 3600})
    project.fewstep("schedule", "--name", "often", "--cron", "* * * * *", "--set", "seed=5")
    serve = project.start("serve", "--port", str(free_port()))
    try:
        wait_for(lambda: project.json("schedule", "list")[0]["served_by"])
        assert "runs already" in project.fewstep("serve", code=5).stderr
        wait_for(lambda: any(line[0] == "teacher" for line in project.journal()))
        state = run_of(project, "running")
        assert state["isolated"] and state["origin"] == "often" and state["settings"]["seed"] == 5
        children = psutil.Process(serve.pid).children(recursive=True)
        assert len(children) >= 3       # the server, the flow run's process, the isolated run
    finally:
        serve.send_signal(signal.SIGKILL)       # the runner alone
        serve.wait()
    wait_for(lambda: ended(children))
    beats = list((project.root / ".fewstep" / "worktrees").rglob("beat-*"))
    written = [path.read_text() for path in beats]
    time.sleep(1)
    assert beats and [path.read_text() for path in beats] == written
    assert project.json("schedule", "list")[0]["served_by"] is None
    run = run_of(project, "killed")["id"]
    report = project.json("reconcile")
    assert f"{run}: Running → Crashed" in report["prefect"] and any("often" in line for line in report["prefect"])
    project.control()
    project.fewstep("schedule", "remove", "often")
    assert project.json("resume")["run"] == run
    assert "seed: 5" not in (project.root / "params.yaml").read_text()
    seen(fault="SIGKILL of `fewstep serve` while a scheduled run works: the run ends with it", code=None,
         resume="`fewstep resume`: 0, in the same run")


@pytest.mark.slow
def test_sigterm_ends_serve_and_the_run_under_way(project):
    project.control(teacher={"seconds": 5})
    project.fewstep("schedule", "--name", "often", "--cron", "* * * * *")
    serve = project.start("serve", "--port", str(free_port()))
    wait_for(lambda: any(line[0] == "teacher" for line in project.journal()))
    children = psutil.Process(serve.pid).children(recursive=True)
    serve.send_signal(signal.SIGTERM)
    out, err = serve.communicate()
    assert serve.returncode == 0 and "stopping" in out and "Traceback" not in out + err
    wait_for(lambda: ended(children))
    assert run_of(project, "cancelled")


EXPERIMENT = """
from tasks.config import params_file as settings
from tasks.tracking.mlflow_client import Tracking
from tasks.storage.workspace import Workspace

workspace = Workspace.find()
Tracking.of(workspace).experiment(settings.load(workspace.params).name)
"""


@pytest.mark.slow
def test_ui_serves_both_pages_and_ends_with_its_process(project):
    import urllib.request

    pages = {"Prefect", "MLflow"}
    for number in (signal.SIGINT, signal.SIGKILL):
        ui = project.start("ui", "--json")
        addresses = json.loads(ui.stdout.readline())
        for address in addresses.values():
            person = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
            assert person.open(address, timeout=30).status == 200 and "?token=" in address
        children = psutil.Process(ui.pid).children(recursive=True)
        assert pages == set(addresses) and len(children) >= 2
        ui.send_signal(number)
        _, err = ui.communicate()
        assert ui.returncode == (0 if number == signal.SIGINT else -signal.SIGKILL), err
        wait_for(lambda children=children: ended(children))
        subprocess.run([sys.executable, "-c", EXPERIMENT], cwd=project.root, env=project.environment(), check=True)
        pages |= {"runs", "models"}     # of an experiment that there is now
