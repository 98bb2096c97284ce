"""`fewstep estimate`: bytes by role and kind, the sets on disk, what makes a run fit; nothing is written."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from flows.runs.estimate_view import show_in_short
from flows.runs.new_run import preview
from tasks.estimate import here
from tasks.storage.workspace import Workspace
from tests.fewstep.families.pipelines import KINDS
from tests.project import Project


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    return Project(tmp_path_factory.mktemp("estimate") / "project")


def test_a_teacher_that_is_trained_here(project):
    before = sorted(project.folder.rglob("*"))
    found = json.loads(project.check("estimate", "--device", "cpu", "--json", "--set", "distill.recipe=kd"))
    (only,) = found["rounds"]
    assert [role["role"] for role in only["roles"]] == ["teacher", "student"] and found["fits"]
    student = only["roles"][1]
    assert student["gradients"] == student["average"] == 4 * student["trained"] and student["moments"] > 8e5
    assert found["total"] == only["total"] == sum(only["kinds"].values()) and only["kinds"]["activations"] > 0
    assert found["sets"][0]["bytes"] == found["sets"][0]["count"] * 64 * 4
    told = project.check("estimate", "--device", "cpu", "--memory", "1GB", "--set", "distill.recipe=kd")
    assert "student" in told and "activations" in told and "fits: " in told and "of 1 GB" in told
    assert sorted(project.folder.rglob("*")) == before


def test_a_pipeline_of_texts_that_does_not_fit_and_what_makes_it_fit(project, tmp_path):
    KINDS["sd3"].save(tmp_path / "teacher")
    (tmp_path / "prompts.txt").write_text("".join(f"a red apple, number {number}\n" for number in range(40)))
    sets = [f"teacher.source={tmp_path / 'teacher'}", f"data.prompts={tmp_path / 'prompts.txt'}",
            "encode.max_sequence_length=16", "distill.recipe=kd", "distill.batch=4"]
    words = [word for one in sets for word in ("--set", one)]
    found = json.loads(project.check("estimate", *words, "--memory", "1kB", "--json"))
    assert not found["fits"] and found["device"] == "gpu" and found["limit"] == 1000
    assert {one["what"]: one["count"] for one in found["sets"]}["texts, encoded"] == 41
    savings = found["savings"]
    assert savings[0]["sets"] == ["distill.gradient_checkpointing=true"]    # first what changes no bit
    assert savings[-1]["sets"] == ["distill.accumulate=2"]
    assert "distill.frozen=bfloat16" in [assignment for one in savings for assignment in one["sets"]]
    totals = [found["total"], *(one["total"] for one in savings)]
    assert totals == sorted(totals, reverse=True) and len(set(totals)) == len(totals) > 4


@pytest.mark.slow
def test_a_dry_run_tells_it_in_short_of_a_given_teacher(project, tmp_path, monkeypatch):
    KINDS["sd3"].save(tmp_path / "teacher")
    (tmp_path / "prompts.txt").write_text("".join(f"a red apple, number {number}\n" for number in range(40)))
    sets = [f"teacher.source={tmp_path / 'teacher'}", f"data.prompts={tmp_path / 'prompts.txt'}",
            "encode.max_sequence_length=16", "distill.recipe=vsd", "distill.batch=4"]
    words = [word for one in sets for word in ("--set", one)]
    whole = json.loads(project.check("estimate", *words, "--device", "cpu", "--json"))
    told = json.loads(project.check("run", "--dry-run", *words, "--json"))["memory"]
    assert (told["total"], told["rounds"], told["sets"]) == (whole["total"], whole["rounds"], whole["sets"])
    assert told["fits"] and told["limit"] > 1e6
    assert "memory" not in json.loads(project.check("run", "--dry-run", "--json"))      # a teacher that is trained here
    assert not list((project.folder / "data").glob("*/*"))

    monkeypatch.setattr(here, "free_memory", lambda: 1000)
    found = here.estimate_here(project.folder, preview(Workspace(project.folder), sets, None)[0])
    out = io.StringIO()
    show_in_short(Console(file=out, width=200), found)
    lines = out.getvalue()
    assert lines.startswith("memory of vsd on the CPU: teacher ") and ", fake_score " in lines.splitlines()[0]
    assert ", activations " in lines and "; together " in lines and "on disk: 41 texts, encoded" in lines
    assert "does not fit as it is" in lines and "--set distill.gradient_checkpointing=true" in lines


@pytest.mark.parametrize("memory", ["much", "-3GiB", "0"])
def test_a_size_that_is_none_is_refused(project, memory):
    done = project.run("estimate", "--memory", memory)
    assert done.returncode == 2 and "expected a size, such as 24GiB" in done.stderr


@pytest.mark.slow
def test_each_of_several_devices(project):
    sets = ["--device", "cpu", "--devices", "2", "--set", "distill.recipe=kd", "--set"]
    found = json.loads(project.check("estimate", *sets, "distill.parts=2", "--json"))
    (only,) = found["rounds"]
    whole, rows = ({role["role"]: role for role in one["roles"]} for one in (only, only["shards"]))
    for role in whole:
        for kind in ("weights", "gradients", "moments", "average"):
            assert 0.5 * whole[role][kind] <= rows[role][kind] <= 0.6 * whole[role][kind]
    assert found["total"] == only["total"]
    assert 0.5 * only["checkpoint"] <= only["shards"]["checkpoint"] <= 0.6 * only["checkpoint"]
    told = project.check("estimate", *sets, "distill.parts=2", "--set", "compute.parallel=shard")
    assert "each of 2 CPUs" in told and "replicate" in told and "on each, with compute.parallel: shard" in told
    assert told.count("checkpoints are written from a copy in the host's memory") == 2
    refused = project.run("estimate", *sets, "distill.parts=1")
    assert refused.returncode == 2 and "set distill.parts: 2" in refused.stderr
