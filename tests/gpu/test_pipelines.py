"""Whole runs of `fewstep run` on a GPU: digits, a teacher of texts, and a training that two GPUs share."""

from __future__ import annotations

import pytest

from tasks.engine import graph
from tests.fewstep.families.pipelines import KINDS
from tests.gpu.needs import DEVICE, GPU, TWO_GPUS, devices
from tests.pipeline.tiny_runs import captioned, settings
from tests.project import TINY, Project

ASKED = ("classifier", "trajectories", "distill", "baselines", "evaluate")
pytestmark = [*GPU, pytest.mark.timeout(0)]     # every wait ends with a process


def test_digits_are_distilled_and_promoted(tmp_path):
    project = Project(tmp_path / "project", TINY)
    project.check("run")
    found = devices(project.folder)
    assert {stage: found[stage] for stage in ASKED} == dict.fromkeys(ASKED, {DEVICE})
    assert "champion" in project.check("lineage", "digits")


def test_a_teacher_of_texts_is_distilled_and_sampled(tmp_path):
    KINDS["sd"].save(tmp_path / "teacher")
    project = Project(tmp_path / "project")
    project.check("data", "add", str(captioned(tmp_path / "images", 32)))
    chosen = {**settings("sd", tmp_path / "teacher"), "data.source": "raw"}
    project.check("run", *(word for name, value in chosen.items() for word in ("--set", f"{name}={value}")))
    found = devices(project.folder)
    assert {stage: found[stage] for stage in ("encode", *ASKED)} == dict.fromkeys(("encode", *ASKED), {DEVICE})
    project.check("sample", "sd@champion", "--prompt", "a red apple", "--n", "4", "--out", "drawn.png")
    assert (project.folder / "drawn.png").stat().st_size


@TWO_GPUS
def test_two_processes_share_a_training_by_nccl(tmp_path):
    project = Project(tmp_path / "project", {**TINY, "distill.parts": 2, "compute.processes": 2})
    for stage in graph.STAGES[: graph.STAGES.index(graph.stage("distill")) + 1]:
        project.check("stage", "run", stage.name)
    assert devices(project.folder)["distill"] == {DEVICE}
