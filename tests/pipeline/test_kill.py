"""SIGKILL of the real pipeline at random moments, then resume: the results equal those of an undisturbed run.

The moments are drawn from a keyed generator (FEWSTEP_KILL_SEED chooses another set), spread evenly over the stages'
own durations in the undisturbed run, which the fixture measures on the machine at hand.
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
from tests.project import TINY, Project, kill_group

STAGES = tuple(stage.name for stage in graph.IN_DVC)
SEED = int(os.environ.get("FEWSTEP_KILL_SEED", "20261121"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A project whose pipeline ran undisturbed: digests, and how long each stage took in a process of its own."""
    project = Project(tmp_path_factory.mktemp("kill") / "undisturbed", TINY)
    seconds = {}
    for stage in STAGES:
        started = time.monotonic()
        project.check("stage", "run", stage)
        seconds[stage] = time.monotonic() - started
    return project, project.digests(), seconds


def leftovers(project: Project) -> list[Path]:
    """Temporary files and unfinished work that no live run owns."""
    partial = project.folder / ".fewstep" / "partial"
    found = [path for path in partial.rglob("*") if path.is_file()] if partial.is_dir() else []
    found += [path for path in (project.folder / "data").rglob("*") if path.name.startswith(TEMPORARY)]
    return found


def kill_after(process, seconds: float) -> bool:
    """SIGKILLs the process group after `seconds`; False when it had already ended by itself."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return False
        time.sleep(0.01)
    kill_group(process)
    return True


def kill_stages(project: Project, stages: list[str], seconds: dict[str, float], generator: random.Random) -> int:
    """Runs the stages one after another, killing each as often as it is named; the number of kills that hit."""
    hits = 0
    for stage in STAGES:
        for _ in range(stages.count(stage)):
            # imports take the first part of a stage's life; most kills should hit its work
            moment = seconds[stage] * generator.uniform(0.25, 1.0)
            hits += kill_after(project.start("stage", "run", stage), moment)
        project.check("stage", "run", stage)
    return hits


def test_killed_stages_end_in_the_same_bytes(undisturbed, tmp_path):
    reference, digests, seconds = undisturbed
    generator = random.Random(SEED)
    project = Project(tmp_path / "killed", TINY)
    hits = kill_stages(project, ["teacher", "trajectories", "distill", "evaluate"], seconds, generator)
    assert hits >= 2, "the kills came after the stages had ended: the moments are drawn badly"
    assert project.digests() == digests
    for name in ("student", "evaluation", "trajectories"):
        for path in (reference.folder / "data" / name).rglob("*"):
            if path.is_file():
                twin = project.folder / "data" / path.relative_to(reference.folder / "data")
                assert path.read_bytes() == twin.read_bytes(), path.name
    assert leftovers(project) == []


@pytest.mark.slow
@pytest.mark.parametrize("part", range(2))
def test_twenty_kills_over_all_stages(undisturbed, tmp_path, part):
    _, digests, seconds = undisturbed
    generator = random.Random(SEED + 1 + part)
    plan = list(STAGES) + [generator.choice(STAGES[2:]) for _ in range(3)]
    project = Project(tmp_path / "killed", TINY)
    hits = kill_stages(project, plan, seconds, generator)
    assert hits >= 6
    assert project.digests() == digests
    assert leftovers(project) == []


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
    assert process.wait(120) == 130
    interrupted = distill()
    assert interrupted["state"] == "interrupted" and interrupted["error"] is None
    (path,) = (project.folder / ".fewstep" / "partial").rglob("step-*.json")
    saved = json.loads(path.read_text())
    assert saved["step"] * 32 >= interrupted["done"] > 0 and not saved["done"]

    project.check("stage", "run", "distill")
    assert project.digests()["student"] == reference.digests()["student"]


def mlflow_facts(project: Project) -> tuple[list, list[str]]:
    """Parent runs of the project's MLflow, and metrics that were logged twice at one step."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{project.folder / '.fewstep' / 'mlflow.db'}")
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


def kill_in_stage(project: Project, stage: str, seconds: float) -> bool:
    """`fewstep run`, killed with all it started so long after `stage` began; False when it had ended by itself."""
    process, folder = project.start("run"), project.folder / ".fewstep" / "runs"
    while process.poll() is None:
        records = [json.loads(path.read_text()) for path in folder.glob("*.json")]
        if any(record["stages"].get(stage, {}).get("state") == "running" for record in records):
            return kill_after(process, seconds)
        time.sleep(0.02)
    return False


def kill_flow(project: Project, stages: list[str], generator: random.Random) -> int:
    """`fewstep run`, killed in these stages one after another, then resumed to its end; the number of kills that hit.

    How long a stage takes inside the flow depends on what else the machine does, so the moments count from its start.
    """
    hits = sum(kill_in_stage(project, stage, generator.uniform(0, 1.5)) for stage in stages)
    project.check("run")
    return hits


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


def test_killed_flow_is_continued_in_the_same_run(undisturbed, tmp_path):
    _, digests, _ = undisturbed
    generator = random.Random(SEED + 10)
    project = Project(tmp_path / "killed", TINY)
    assert kill_flow(project, [generator.choice(STAGES[1:])], generator) == 1
    check_flow(project, digests)


@pytest.mark.slow
def test_flow_killed_six_times(undisturbed, tmp_path):
    _, digests, _ = undisturbed
    generator = random.Random(SEED + 20)
    project = Project(tmp_path / "killed", TINY)
    stages = [STAGES[number] for number in sorted(generator.choices(range(len(STAGES)), k=6))]
    assert kill_flow(project, stages, generator) >= 4
    check_flow(project, digests)


def test_a_second_run_starts_no_stage(undisturbed):
    project, digests, _ = undisturbed
    before = {path: path.stat().st_mtime_ns for path in (project.folder / "data").rglob("*") if path.is_file()}
    for stage in STAGES:
        project.check("stage", "run", stage)
    after = {path: path.stat().st_mtime_ns for path in (project.folder / "data").rglob("*") if path.is_file()}
    assert after == before
    assert project.digests() == digests
