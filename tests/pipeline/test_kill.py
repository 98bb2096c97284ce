"""SIGKILL of the real pipeline before chosen events, then resume: the results equal those of an undisturbed run.

Events are counted in an undisturbed run (`tests.killing`), and drawn from them by a keyed generator (FEWSTEP_KILL_SEED
chooses others): a kill hits on a machine of any pace.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from fewstep.util.files import TEMPORARY
from tasks.engine import graph
from tests.file_events import drawn
from tests.killing import Commands
from tests.profiles import mlflow_uri
from tests.project import TINY, Project

# Busy machines are slow, and every wait here ends with a process.
pytestmark = [pytest.mark.both_profiles, pytest.mark.timeout(0)]
STAGES = tuple(stage.name for stage in graph.IN_DVC)
SEED = int(os.environ.get("FEWSTEP_KILL_SEED", "20261121"))
KILLED = -signal.SIGKILL

@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A project whose pipeline ran undisturbed: its commands, digests, and how many events each stage had."""
    project = Project(tmp_path_factory.mktemp("kill") / "undisturbed", TINY)
    commands, events = Commands(project), {}
    for stage in STAGES:
        events |= commands.check("stage", "run", stage).events
    yield commands, project.digests(), events
    commands.close()


@pytest.fixture
def killed(tmp_path):
    """Commands of a project in which nothing is made yet."""
    commands = Commands(Project(tmp_path / "killed", TINY))
    yield commands
    commands.close()


def leftovers(project: Project) -> list[Path]:
    """Temporary files and unfinished work that no live run owns."""
    partial = project.folder / ".fewstep" / "partial"
    found = [path for path in partial.rglob("*") if path.is_file()] if partial.is_dir() else []
    found += [path for path in (project.folder / "data").rglob("*") if path.name.startswith(TEMPORARY)]
    return found


def check_bytes(project: Project, reference: Project, output: str) -> None:
    """Every file of the output in `reference`, manifest included, is the same in `project`."""
    for path in (reference.folder / "data" / output).rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (project.folder / path.relative_to(reference.folder)).read_bytes(), path.name


def test_killed_stages_end_in_the_same_bytes(undisturbed, killed):
    reference, digests, events = undisturbed
    generator = random.Random(SEED)
    for stage in STAGES:
        if stage in ("teacher", "trajectories", "distill", "evaluate"):
            (number,) = drawn(events[stage], 1, generator)
            assert killed.run("stage", "run", stage, fatal=(stage, number)).code == KILLED
        killed.check("stage", "run", stage)
    assert killed.project.digests() == digests
    for output in ("student", "evaluation", "trajectories"):
        check_bytes(killed.project, reference.project, output)
    assert leftovers(killed.project) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_soon_after_the_start_of_a_training_keeps_its_work(tmp_path, number):
    """Long before the first checkpoint by the clock: the run continues from the step that it was told to stop at."""
    project = Project(tmp_path / "project", {**TINY, "distill.images": 32_000})
    for stage in graph.STAGES[:graph.STAGES.index(graph.stage("distill"))]:
        project.check("stage", "run", stage.name)
    shutil.copytree(project.folder, tmp_path / "undisturbed")
    reference = Project.__new__(Project)
    reference.folder = tmp_path / "undisturbed"
    reference.check("stage", "run", "distill")

    def distill() -> dict:
        (record,) = (project.folder / ".fewstep" / "runs").glob("*.json")
        return json.loads(record.read_text())["stages"].get("distill", {})

    process = project.start("run", log=tmp_path / "log")
    while not list((project.folder / ".fewstep").glob("runs/*.json")) or not distill().get("done"):
        assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait() == 130
    interrupted = distill()
    assert interrupted["state"] == "interrupted" and interrupted["error"] is None
    (path,) = (project.folder / ".fewstep" / "partial").rglob("step-*.json")
    saved = json.loads(path.read_text())
    assert saved["step"] * 32 >= interrupted["done"] > 0 and not saved["done"]

    project.check("stage", "run", "distill")
    assert project.digests()["student"] == reference.digests()["student"]


def mlflow_client(project: Project):
    from mlflow.tracking import MlflowClient

    return MlflowClient(mlflow_uri(project.folder, project.servers))


def mlflow_facts(project: Project) -> tuple[list, list[str]]:
    """Parent runs of the project's MLflow, and metrics that were logged twice at one step."""
    client = mlflow_client(project)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    twice = []
    for run in runs:
        for name in run.data.metrics:
            steps = [metric.step for metric in client.get_metric_history(run.info.run_id, name)]
            if len(steps) != len(set(steps)):
                twice.append(f"{run.info.run_name}: {name}")
    return parents, twice


def check_flow(project: Project, digests: dict[str, str]) -> None:
    reached = project.digests()
    assert {name: reached[name] for name in digests} == digests
    parents, twice = mlflow_facts(project)
    assert len(parents) == 1, [run.info.run_name for run in parents]
    assert parents[0].info.status == "FINISHED"
    assert twice == []
    runs = list((project.folder / ".fewstep" / "runs").glob("*.json"))
    assert [json.loads(path.read_text())["state"] for path in runs] == ["finished"]
    project.check("reconcile")
    assert leftovers(project) == []


@pytest.mark.slow
def test_killed_flow_is_continued_in_the_same_run(undisturbed, killed, seen):
    _, digests, events = undisturbed
    generator = random.Random(SEED + 10)
    stage = generator.choice(STAGES[1:])
    (number,) = drawn(events[stage], 1, generator)
    assert killed.run("run", fatal=(stage, number)).code == KILLED
    killed.check("run")
    check_flow(killed.project, digests)
    seen(fault="SIGKILL of a whole run in a stage", code=None, resume="0, in the same run")


def test_a_second_run_starts_no_stage(undisturbed):
    commands, digests, _ = undisturbed
    data = commands.project.folder / "data"
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*") if path.is_file()}
    for stage in STAGES:
        commands.check("stage", "run", stage)
    after = {path: path.stat().st_mtime_ns for path in data.rglob("*") if path.is_file()}
    assert after == before
    assert commands.project.digests() == digests
