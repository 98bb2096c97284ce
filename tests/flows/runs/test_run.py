"""One project's life: errors in the settings, a failure, a kill, the end. Real Prefect, MLflow, DVC, git, processes."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from mlflow.tracking import MlflowClient

from tests.profiles import SERVER, flow_run_states, mlflow_uri

pytestmark = pytest.mark.both_profiles


def wait_for(condition, process=None):
    while not (found := condition()):
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.05)
    return found


def begun(project, stage):
    return any(line[0] == stage for line in project.journal())


def descendants_of(pid):
    import psutil

    return psutil.Process(pid).children(recursive=True)


def mlflow_runs(project):
    """Id and status of the runs by kind."""
    client = MlflowClient(mlflow_uri(project.root, project.servers))
    found = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return {kind: [(run.info.run_id, run.info.status) for run in found if run.data.tags.get("fewstep.kind") == kind]
            for kind in ("pipeline", "stage")}


def prefect_states(project):
    return flow_run_states(project.root)


@pytest.mark.parametrize("arguments", [
    ["--set", "trajectories.solvr=heun", "did you mean 'solver'"],
    ["--set", "trajectories.count=0", "expected an integer ≥ 1"],
    ["--set", "distill.recipe=kdd", "unknown recipe 'kdd'"],
    ["--set", "teacher.source=no/such/folder", "no/such/folder"],
    ["--params", "absent.yaml", "no such file"],
    ["--accept", "--accept and --why go together"],
    ["--why", "a reason", "--accept and --why go together"],
    ["--accept", "--why", " ", "the reason is empty"],
    ["--isolated", "--accept", "--why", "x", "give one of them"],
    ["--dry-run", "--set", "trajectories.count=0", "expected an integer ≥ 1"],
    ["--isolated", "--set", "trajectories.count=0", "expected an integer ≥ 1"],
    ["--isolated", "--set", "teacher.source=no/such/folder", "no/such/folder"],
], ids=" ".join)
def test_bad_settings_exit_with_2_and_change_nothing(shared_project, arguments):
    *arguments, words = arguments
    before = sorted(path for path in shared_project.root.rglob("*") if "__pycache__" not in path.parts)
    done = shared_project.fewstep("run", *arguments, code=2)
    assert words in done.stderr.splitlines()[0] and "Traceback" not in done.stderr
    assert sorted(path for path in shared_project.root.rglob("*") if "__pycache__" not in path.parts) == before
    assert not shared_project.git("status", "--porcelain")


@pytest.mark.local
def test_a_profile_says_what_it_needs(shared_project):
    done = shared_project.fewstep("run", "--set", "profile=server", code=2)
    assert "PREFECT_API_URL" in done.stderr.splitlines()[0] and "Traceback" not in done.stderr


def test_a_failing_stage_ends_the_run_and_says_how_to_continue(shared_project):
    shared_project.control(shard={"raise": "the network is away for a moment"},
                           teacher={"fail": "the teacher is not good enough"})
    done = shared_project.fewstep("run", code=1)
    assert "error: the teacher is not good enough" in done.stderr
    state = shared_project.json("status")
    assert f"fewstep resume {state['id']}" in done.stderr and state["continue"] == f"fewstep resume {state['id']}"
    assert state["state"] == "failed" and state["error"]["stage"] == "teacher"
    shown = " ".join(shared_project.fewstep("status").stdout.split())
    assert "teacher: the teacher is not good enough" in shown and state["continue"] in shown
    assert state["stages"]["shard"]["state"] == "made"      # after the transient errors, by trying again
    assert [line[:2] for line in shared_project.journal()].count(["shard", "00"]) == 2
    assert [line[0] for line in shared_project.journal()].count("teacher") == 1     # not tried again
    assert state["stages"]["distill"]["state"] == "waiting"
    assert prefect_states(shared_project) == ["Failed"]
    assert [row[1] for row in mlflow_runs(shared_project)["pipeline"]] == ["FAILED"]


def test_sigkill_leaves_no_orphan_and_a_true_status(shared_project):
    first = shared_project.json("status")["id"]
    shared_project.control(distill={"seconds": 3600})
    process = shared_project.start("resume")
    wait_for(lambda: begun(shared_project, "distill"), process=process)
    assert shared_project.json("status")["state"] == "running"
    busy = shared_project.fewstep("run", "--set", "seed=7", code=5)
    assert first in busy.stderr
    assert "seed: 7" not in (shared_project.root / "params.yaml").read_text()
    children = descendants_of(process.pid)
    assert children or SERVER   # Prefect's server
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(child.is_running() and child.status() != "zombie" for child in children))
    state = shared_project.json("status")
    assert state["id"] == first and state["state"] == "killed" and not state["alive"]
    assert state["stages"]["teacher"]["state"] == "made" and state["stages"]["distill"]["state"] == "stopped"
    assert state["continue"] == f"fewstep resume {first}"


def test_reconcile_makes_all_records_true(shared_project):
    run = shared_project.json("status")["id"]
    assert "RUNNING" in [row[1] for row in mlflow_runs(shared_project)["pipeline"]]
    report = shared_project.json("reconcile")
    assert [line.split(":")[0] for line in report["records"]] == [run]
    assert report["prefect"] == [f"{run}: Running → Crashed"] and report["mlflow"] and not report["skipped"]
    assert prefect_states(shared_project) == ["Failed", "Crashed"]
    assert {row[1] for row in mlflow_runs(shared_project)["pipeline"]} == {"KILLED"}


def test_run_with_the_same_settings_continues_the_killed_run(shared_project):
    run = shared_project.json("status")["id"]
    shared_project.control()
    result = shared_project.json("run")
    assert result["run"] == run and result["state"] == "finished"
    assert result["stages"]["shard"]["state"] == "current" and result["stages"]["distill"]["state"] == "made"
    runs = mlflow_runs(shared_project)
    assert [row[1] for row in runs["pipeline"]] == ["FINISHED"]
    assert {row[1] for row in runs["stage"]} == {"FINISHED"}
    assert prefect_states(shared_project)[-1] == "Completed"
    assert not list((shared_project.root / ".fewstep" / "partial").iterdir())


def test_with_nothing_to_do_no_heavy_import_and_no_run(shared_project):
    journal, runs = shared_project.journal(), shared_project.json("status", "--all")
    code = ("import sys; from flows.cli import app; app(['run', '--json'], standalone_mode=False); "
            "print([name for name in ('torch', 'prefect', 'mlflow', 'dvc', 'boto3') if name in sys.modules],"
            " file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code], cwd=shared_project.root, env=shared_project.environment(),
                          capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["state"] == "current"
    assert done.stderr.strip() == ("['boto3']" if SERVER else "[]")     # a store says which runs other hosts work on
    assert "nothing to do" in shared_project.fewstep("run").stdout
    assert shared_project.journal() == journal and shared_project.json("status", "--all") == runs


def test_a_change_of_code_is_said_before_it_costs_anything_and_can_be_accepted(shared_project):
    path = shared_project.root / "tasks" / "stages" / "distill.py"
    before, journal = path.read_text(), shared_project.journal()
    path.write_text(before + "\nRENAMED = 1\n")
    try:
        shown = " ".join(shared_project.fewstep("run", "--dry-run").stdout.split())
        assert "distill make again its code has changed: tasks/stages/distill.py" in shown
        assert "evaluate make again follows distill" in shown and "`fewstep accept --why TEXT`" in shown
        stages = {item["stage"]: item for item in shared_project.json("run", "--dry-run")["stages"]}
        assert stages["distill"]["only_code"] and stages["distill"]["last_seconds"] >= 0
        assert stages["teacher"]["state"] == "current" and shared_project.journal() == journal
        answer = shared_project.json("run", "--accept", "--why", "renamed a constant")
        assert answer["state"] == "current" and answer["run"] is None
        manifest = json.loads((shared_project.root / "data" / "student" / "manifest.json").read_text())
        (acceptance,) = manifest["accepted"]
        assert acceptance["why"] == "renamed a constant" and acceptance["compared"]["files"] == 1
        assert "nothing to accept" in shared_project.fewstep("accept", "--why", "again").stdout
        path.write_text(before.replace("sort_keys=True)", "sort_keys=False)"))
        refused = shared_project.fewstep("accept", "distill", "--why", "harmless?", code=3)
        assert "makes other bytes than the code of" in refused.stderr and "result.txt" in refused.stderr
    finally:
        path.write_text(before)
    assert "nothing to do" in shared_project.fewstep("run").stdout


@pytest.mark.parametrize("variable,address,said", [
    ("PREFECT_API_URL", "127.0.0.1:4200", "http://127.0.0.1:4200/api"),
    ("MLFLOW_TRACKING_URI", "localhost:5000", "http://localhost:5000"),
])  # fmt: skip
def test_an_address_without_its_scheme_is_refused_by_name(shared_project, variable, address, said):
    before = sorted(path.name for path in shared_project.root.iterdir())
    for command in (["run", "--set", "seed=9"], ["doctor"]):
        done = shared_project.fewstep(*command, code=None, **{variable: address})
        assert done.returncode and "Traceback" not in done.stderr
        text = " ".join((done.stdout + done.stderr).split())
        assert f"{variable}: '{address}' is no address of a server" in text and said in text
    assert sorted(path.name for path in shared_project.root.iterdir()) == before


def test_resume_without_an_unfinished_run_says_so(shared_project):
    assert "no unfinished run" in shared_project.fewstep("resume", code=4).stderr
    assert "nothing to continue" in shared_project.fewstep("resume", shared_project.json("status")["id"][-4:]).stdout
    assert "lists the runs" in shared_project.fewstep("resume", "nonsense", code=2).stderr


def test_an_isolated_run_leaves_the_checkout_alone(shared_project):
    before = (shared_project.root / "params.yaml").read_bytes(), (shared_project.root / "dvc.lock").read_bytes()
    (shared_project.root / "flows" / "new_module.py").write_text("")    # git does not know it yet; the run has it
    result = shared_project.json("run", "--isolated", "--set", "evaluate.samples=64")
    assert result["state"] == "finished"
    assert result["stages"]["teacher"]["state"] == "restored" and result["stages"]["evaluate"]["state"] == "made"
    assert not list((shared_project.root / ".fewstep" / "worktrees").iterdir())
    assert ((shared_project.root / "params.yaml").read_bytes(),
            (shared_project.root / "dvc.lock").read_bytes()) == before
    assert "new_module.py" in shared_project.git("show", "--stat", f"refs/fewstep/runs/{result['run']}")
    again = shared_project.json("run", "--isolated", "--set", "evaluate.samples=64")
    assert again["state"] == "current" and again["run"] is None


@pytest.mark.parametrize(("variable", "name"), [("PREFECT_API_URL", "Prefect"), ("MLFLOW_TRACKING_URI", "MLflow")])
def test_a_server_that_is_away_is_an_error_in_words_and_costs_nothing(shared_project, variable, name):
    before = shared_project.journal()
    done = shared_project.fewstep("run", "--set", "evaluate.samples=70", code=4, FEWSTEP_PREFECT_ATTEMPTS="2",
                                  MLFLOW_HTTP_REQUEST_MAX_RETRIES="1", **{variable: "http://127.0.0.1:9/api"})
    assert name in done.stderr and "did not answer after 2 attempts" in done.stderr and "Traceback" not in done.stderr
    state = shared_project.json("status")
    assert state["state"] == "failed" and state["settings"]["evaluate"]["samples"] == 70
    assert f"fewstep resume {state['id']}" == state["continue"] and shared_project.journal() == before


@pytest.mark.slow
def test_reconcile_twice_finds_nothing(shared_project):
    shared_project.fewstep("reconcile", code=None)
    assert shared_project.json("reconcile")["changed"] == 0


@pytest.mark.slow
def test_signals_end_an_isolated_run_that_resume_finishes(shared_project):
    shared_project.control(evaluate={"seconds": 3600})
    process = shared_project.start("run", "--isolated", "--set", "evaluate.samples=65")
    count = len([line for line in shared_project.journal() if line[0] == "evaluate"])
    wait_for(lambda: len([line for line in shared_project.journal() if line[0] == "evaluate"]) > count, process=process)
    children = descendants_of(process.pid)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(1.0)
    shared_project.control()
    os.kill(process.pid, signal.SIGINT)     # at once: the units under way would take a minute
    assert process.wait() == 130
    wait_for(lambda: not any(child.is_running() and child.status() != "zombie" for child in children))
    state = shared_project.json("status")
    assert state["state"] == "cancelled" and state["isolated"]
    result = shared_project.json("resume")
    assert result["run"] == state["id"] and result["state"] == "finished"
    assert not list((shared_project.root / ".fewstep" / "worktrees").iterdir())


def mlflow_tags(project, run):
    return MlflowClient(mlflow_uri(project.root, project.servers)).get_run(run).data.tags


@pytest.mark.parametrize(("number", "stage"), [
    (signal.SIGTERM, "shard"), pytest.param(signal.SIGINT, "teacher", marks=pytest.mark.slow),
    pytest.param(signal.SIGTERM, "teacher", marks=pytest.mark.slow),
    pytest.param(signal.SIGHUP, "shard", marks=pytest.mark.slow),
    pytest.param(signal.SIGHUP, "teacher", marks=pytest.mark.slow),
])  # fmt: skip
def test_a_signal_ends_a_run_cleanly_and_its_stage_is_called_interrupted(project, number, stage):
    project.control(**{stage: {"seconds": 4}})
    process = project.start("run")
    wait_for(lambda: begun(project, stage), process=process)
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == 130 and "continue with: fewstep resume" in out and "Traceback" not in err
    state = project.json("status")
    assert state["state"] == "cancelled" and state["error"] is None
    assert state["stages"][stage]["state"] == "interrupted" and state["stages"][stage]["error"] is None
    shown = project.fewstep("status").stdout
    assert "interrupted" in shown and "failed" not in shown + out + err
    assert f"{stage}: interrupted" in out
    assert prefect_states(project) == ["Cancelled"]
    runs = mlflow_runs(project)
    assert [row[1] for row in runs["pipeline"]] == ["KILLED"]
    assert {row[1] for row in runs["stage"]} <= {"FINISHED", "KILLED"}
    interrupted = [mlflow_tags(project, row[0]) for row in runs["stage"] if row[1] == "KILLED"]
    assert [(tags["fewstep.stage"], tags["fewstep.state"]) for tags in interrupted] == [(stage, "interrupted")]
    assert "fewstep.error" not in interrupted[0]


@pytest.mark.local
def test_the_advice_for_a_deleted_experiment_restores_it(shared_project):
    folder = shared_project.root / ".fewstep"
    with sqlite3.connect(folder / "mlflow.db") as database:
        database.execute("UPDATE experiments SET lifecycle_stage = 'deleted' WHERE name != 'Default'")
    refused = shared_project.fewstep("run", "--set", "seed=9", code=None)
    assert refused.returncode and "was deleted" in refused.stderr
    advice = re.search("`(MLFLOW_TRACKING_URI=[^`]+)`", " ".join(refused.stderr.split())).group(1)
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    done = subprocess.run(advice, shell=True, cwd=shared_project.root, capture_output=True, text=True,
                          env=dict(os.environ, PATH=path))
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(folder / "mlflow.db") as database:
        stages = {stage for (stage,) in database.execute("SELECT lifecycle_stage FROM experiments")}
    assert stages == {"active"} and not (shared_project.root / "mlflow.db").exists()
