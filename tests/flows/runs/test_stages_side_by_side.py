"""Two stages of a run at once, the second in a process of its own: the same results, and true records of their ends."""

import os
import signal

import pytest

from tests.flows.runs.test_run import begun, descendants_of, wait_for

PAIR = ("distill", "baselines")
TOGETHER = ("--set", "compute.side_by_side=true")


def both_begun(project):
    return all(begun(project, stage) for stage in PAIR)


def processes_of(project):
    """The processes that did units, by stage."""
    found = {}
    for stage, _, pid in project.journal():
        found.setdefault(stage, set()).add(pid)
    return found


@pytest.mark.local
def test_two_at_once_are_recorded_fail_end_and_continue_as_one_after_the_other(project):
    # a stage that fails lets the other one finish
    project.control(distill={"seconds": 3600}, baselines={"seconds": 3600, "fail": "not these"})
    process = project.start("run", *TOGETHER)
    wait_for(lambda: both_begun(project), process=process)
    project.control(distill={"seconds": 1})
    out, err = process.communicate()
    state = project.json("status")
    assert process.returncode == 1 and "error: not these" in err and state["error"]["stage"] == "baselines"
    assert state["state"] == "failed" and state["stages"]["baselines"]["state"] == "failed"
    assert state["stages"]["distill"]["state"] == "made" and state["stages"]["evaluate"]["state"] == "waiting"
    assert not processes_of(project)["distill"] & processes_of(project)["baselines"]
    assert "baselines: failed" in out + err and "distill: done" in out + err

    # a signal ends both
    project.control(distill={"seconds": 3600}, baselines={"seconds": 3600})
    os.unlink(project.root / "journal.txt")
    process = project.start("run", "--set", "seed=5")
    wait_for(lambda: both_begun(project), process=process)
    children = descendants_of(process.pid)
    process.send_signal(signal.SIGTERM)
    project.control()       # units under way are being finished
    out, err = process.communicate()
    assert process.returncode == 130 and "Traceback" not in err, err
    wait_for(lambda: not any(child.is_running() and child.status() != "zombie" for child in children))
    state = project.json("status")
    assert state["state"] == "cancelled" and state["error"] is None
    assert {state["stages"][stage]["state"] for stage in PAIR} == {"interrupted"}

    # what was begun is continued, and one after the other there is nothing to do then
    assert project.json("resume")["state"] == "finished"
    stages = project.json("status")["stages"]
    assert {stages[stage]["state"] for stage in (*PAIR, "evaluate")} <= {"made", "current"}
    journal = project.journal()
    again = project.json("run", "--set", "compute.side_by_side=false")
    assert {stage["state"] for stage in again["stages"]} == {"current"} and project.journal() == journal
    assert "distill" in (project.root / "dvc.lock").read_text()


@pytest.mark.local
@pytest.mark.slow
def test_a_stage_whose_process_is_killed_is_a_failure_in_words(project):
    project.control(distill={"seconds": 3600}, baselines={"seconds": 3600})
    process = project.start("run", *TOGETHER)
    wait_for(lambda: both_begun(project), process=process)
    pids = processes_of(project)
    beside = next(stage for stage in PAIR if pids[stage] != {str(process.pid)})
    os.kill(int(next(iter(pids[beside]))), signal.SIGKILL)
    project.control()
    _, err = process.communicate()
    assert process.returncode == 1
    assert f"error: the process of stage '{beside}' was ended by SIGKILL" in err and "Traceback" not in err
    state = project.json("status")
    other = next(stage for stage in PAIR if stage != beside)
    assert state["stages"][beside]["state"] == "failed" and state["stages"][other]["state"] == "made"
    assert project.json("run")["state"] == "finished"
