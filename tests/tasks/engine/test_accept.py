"""Results survive a change of code: what makes nothing stale, what is accepted after a comparison, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fake_project import STAGES, FakeProject, lock, plan

ACCEPT = '''
import json, sys
from tasks.config import params_file
from tasks.engine.accept import accept
from tasks.storage.locks import workspace_lock
from tasks.storage.workspace import Workspace
from fewstep.util.errors import FewstepError

request = json.loads(sys.argv[1])
workspace = Workspace.find()
with workspace_lock(workspace, "accept"):
    try:
        result = accept(workspace, params_file.load(workspace.params), request["names"], why=request["why"], who="eve",
                        check=request["check"])
        for error in result.refused.values():
            raise error
        print(json.dumps({"accepted": result.stages}))
    except FewstepError as error:
        print(json.dumps({"error": str(error), "code": error.exit_code, "hint": error.hint}))
'''


def accept(project: FakeProject, *names: str, check: bool = True, why: str = "a refactoring") -> dict:
    done = project.python(ACCEPT, json.dumps({"names": list(names) or None, "check": check, "why": why}))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def append(project: FakeProject, file: str, text: str) -> None:
    path = project.folder / file
    path.write_text(path.read_text() + text)


def states(project: FakeProject) -> dict[str, str]:
    return {name: item["state"] for name, item in plan(project).items()}


def dvc_agrees(project: FakeProject) -> bool:
    """`dvc status` is clean, and `dvc repro` runs nothing."""
    clean = "up to date" in project.dvc("status").stdout
    repro = project.dvc("repro")
    return clean and repro.returncode == 0 and "Running stage" not in repro.stdout


CURRENT = dict.fromkeys(STAGES, "current")


def test_docstrings_comments_new_terms_and_new_recipes_make_nothing_stale(project):
    before = project.manifests()
    denoiser = project.folder / "fewstep" / "diffusion" / "denoiser.py"
    lines = denoiser.read_text().splitlines(keepends=True)
    denoiser.write_text("# a comment above all\n" + lines[0].replace('"""', '"""Moved. ', 1) + "".join(lines[1:]))
    term = project.folder / "fewstep" / "objectives" / "novel"
    term.mkdir()
    (term / "__init__.py").write_text('"""A new term."""\n')
    (term / "settings.py").write_text(
        "from typing import Literal\n\nfrom fewstep.objectives.term_settings import TermSettings\n\n\n"
        'class NovelSettings(TermSettings):\n    term: Literal["novel"] = "novel"\n')
    (term / "loss.py").write_text("from fewstep.objectives.term import Term\n\n\nclass Novel(Term):\n    pass\n")
    recipes = project.folder / "fewstep" / "recipes"
    (recipes / "novel.yaml").write_text((recipes / "kd.yaml").read_text())
    assert states(project) == CURRENT
    # DVC is stricter: its commands return without work, and the records agree again
    repro = project.dvc("repro")
    assert repro.returncode == 0 and "Running stage 'teacher'" in repro.stdout, repro.stdout + repro.stderr
    assert project.manifests() == before and dvc_agrees(project)
    assert project.all() == CURRENT and dvc_agrees(project)


def test_a_constant_in_a_term_that_the_recipe_uses_makes_the_student_stale_and_not_the_teacher(project):
    append(project, "fewstep/objectives/adversarial/loss.py", "\nUNUSED_HERE = 3\n")
    assert states(project) == CURRENT
    append(project, "fewstep/objectives/regression/loss.py", "\nSCALE = 3\n")
    items = plan(project)
    assert {name for name in STAGES if items[name]["state"] != "current"} == {"distill", "evaluate"}
    assert items["distill"]["why"] == "its code has changed: fewstep/objectives/regression/loss.py"
    assert items["distill"]["code_files"] == ["fewstep/objectives/regression/loss.py"] and items["distill"]["only_code"]
    assert items["distill"]["last_seconds"] >= 0 and items["evaluate"]["why"] == "follows distill"


def test_a_refactoring_is_accepted_after_a_short_run_of_both_codes(project):
    before, records = project.manifests(), lock(project)
    path = project.folder / "tasks" / "stages" / "shard.py"
    path.write_text(path.read_text().replace("inputs = {name: manifest.digest for name, manifest in",
                                             "inputs = {key: manifest.digest for key, manifest in"))
    assert states(project) == {**CURRENT, "shard": "stale", **dict.fromkeys(
        [name for name in STAGES if name != "shard"], "stale")}
    assert accept(project) == {"accepted": ["shard"]}
    assert states(project) == CURRENT and dvc_agrees(project)
    manifest, former = json.loads(project.manifests()["shard"]), json.loads(before["shard"])
    (acceptance,) = manifest.pop("accepted")
    assert former.pop("accepted") == [] and manifest == former, "the rest of the manifest says who made it"
    assert (acceptance["who"], acceptance["why"]) == ("eve", "a refactoring")
    assert acceptance["compared"]["files"] == 4 and len(acceptance["compared"]["commit"]) == 40
    assert {**project.manifests(), "shard": b""} == {**before, "shard": b""} and lock(project) != records
    assert not (project.folder / ".fewstep" / "accept").exists()
    # put back from the cache under the key of the accepted code
    project.edit("source: digits", "source: digits, record_size: 99")
    assert project.all("shard") == {"shard": "made"}
    project.edit("source: digits, record_size: 99", "source: digits")
    assert states(project)["shard"] == "restorable" and project.all("shard") == {"shard": "restored"}
    # the code that is accepted may change again
    append(project, "tasks/stages/shard.py", "\nMORE = 1\n")
    assert states(project)["shard"] == "stale" and accept(project, "shard") == {"accepted": ["shard"]}
    assert len(json.loads(project.manifests()["shard"])["accepted"]) == 2


def test_code_that_makes_other_bits_is_refused_and_nothing_is_changed(project):
    path = project.folder / "tasks" / "stages" / "distill.py"
    path.write_text(path.read_text().replace("sort_keys=True)\n        size", "sort_keys=True) + '.'\n        size"))
    before = project.manifests()
    answer = accept(project, "distill")
    assert answer["code"] == 3 and "today's code makes other bytes than the code of" in answer["error"]
    assert "a.bin" in answer["error"] and "--unchecked" in answer["hint"]
    assert project.manifests() == before and states(project)["distill"] == "stale"
    assert accept(project, "distill", check=False) == {"accepted": ["distill"]}
    (acceptance,) = json.loads(project.manifests()["distill"])["accepted"]
    assert acceptance["compared"] == {}
    assert states(project) == CURRENT and dvc_agrees(project)


def test_what_differs_in_more_than_its_code_is_not_accepted(project):
    append(project, "tasks/stages/distill.py", "\nMORE = 1\n")
    project.edit("images: 80000", "images: 101")
    answer = accept(project, "distill")
    assert answer["code"] == 2 and "images: 80000 → 101" in answer["error"]
    assert accept(project) == {"accepted": []}
    assert accept(project, "teacher") == {"accepted": []}     # up to date already
    assert "the reason is empty" in accept(project, why=" ")["error"]
    assert "did you mean 'distill'" in accept(project, "distil")["error"]


def test_code_whose_commit_is_not_known_is_accepted_only_unchecked(project):
    append(project, "tasks/stages/distill.py", "\nMORE = 1\n")
    for path in (project.folder / ".fewstep" / "code").glob("*.json"):
        path.unlink()
    for path in (project.folder / ".fewstep" / "published").glob("*.json"):
        known = json.loads(path.read_text())
        path.write_text(json.dumps({**known, "commit": None}))
    answer = accept(project, "distill")
    assert answer["code"] == 4 and "which commit made the output is not known" in answer["error"]
    assert accept(project, "distill", check=False) == {"accepted": ["distill"]}


def test_results_of_uncommitted_code_are_compared_with_that_code(project):
    append(project, "tasks/stages/distill.py", "\nUNCOMMITTED = 1\n")
    assert project.all("distill") == {"distill": "made"}
    append(project, "tasks/stages/distill.py", "\nMORE = 1\n")
    assert accept(project, "distill") == {"accepted": ["distill"]}
    (acceptance,) = json.loads(project.manifests()["distill"])["accepted"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=project.folder, capture_output=True, text=True).stdout
    assert acceptance["compared"]["commit"] != head.strip()


@pytest.mark.slow
def test_short_runs_of_the_real_stages_agree_with_themselves(tmp_path):
    """Every real stage of a tiny pipeline makes the same bytes twice in short runs of half a minute at most."""
    from tests.project import TINY, Project

    project = Project(tmp_path / "project", TINY)
    command = [sys.executable, "-m", "flows.cli", "run"]
    done = subprocess.run(command, cwd=project.folder, env=project.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for file in [*(f"tasks/stages/{stage}.py" for stage in STAGES), "fewstep/diffusion/denoiser.py"]:
        path = Path(project.folder, file)
        path.write_text(path.read_text() + "\nMORE = 1\n")
    code = ACCEPT.replace("sys.argv[1]", repr(json.dumps({"names": None, "check": True, "why": "one more name"})))
    done = subprocess.run([sys.executable, "-c", code], cwd=project.folder, env=project.environment(),
                          capture_output=True, text=True)
    assert json.loads(done.stdout.splitlines()[-1]) == {"accepted": STAGES}, done.stdout + done.stderr
