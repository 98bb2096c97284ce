"""DVC and the keys: they accept each other's work, and DVC never calls current what the key calls stale."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.engine import graph
from tests.fake_project import ALL, PLAN, STAGES, FakeProject, lock, plan

HINT = """
from fewstep.util.errors import FewstepError
from tasks.engine.plan import plan
from tasks.config.params_file import load
from tasks.storage.workspace import Workspace
workspace = Workspace.find()
try:
    plan(workspace, load(workspace.params))
except FewstepError as error:
    print(error.hint)
"""
DIE_WRITING = """
import dvc.utils.serialize._yaml as yaml, os, signal
def die(data, stream):
    stream.write("schema: '2.0'\\nstages:\\n  sh")
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)
yaml._dump = die
"""


def test_dvc_lock_is_whole_whoever_dies_while_writing_it(fresh, finished):
    fresh.all(STAGES[0])
    before = lock(fresh)
    killed = fresh.python(DIE_WRITING + ALL, STAGES[1])
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    assert lock(fresh) == before
    fresh.all()
    assert lock(fresh) == (finished / "dvc.lock").read_bytes()


@pytest.mark.parametrize("left", ["", "schema: '2.0'\nstages:\n  shard:\n    cmd: x\n   outs"])
def test_a_dvc_lock_that_a_killed_dvc_left_broken_is_said_and_written_anew(project, left):
    before, path = lock(project), project.folder / "dvc.lock"
    path.write_text(left)
    failed = project.python(ALL)
    assert failed.returncode and "dvc.lock" in failed.stderr, failed.stdout + failed.stderr
    assert "remove dvc.lock" in project.python(HINT).stdout
    path.unlink()
    assert set(project.all().values()) == {"current"}
    assert lock(project) == before


ODD_ENTRIES = """
import json
from fewstep.util.errors import FewstepError
from tasks.config import params_file
from tasks.engine import graph, manifest
from tasks.storage.dvc import dvc_repo
from tasks.storage.workspace import Workspace
workspace = Workspace.find()
path, told = workspace.root / "dvc.lock", {}
stage, true = graph.IN_DVC[0], params_file.read(path)["stages"]
loud = [{**one, "md5": one["md5"].upper()} for one in true["evaluate"]["deps"]]
for entry in ({**true["evaluate"], "deps": loud}, {"cmd": "x", "outs": [{"path": "a", "md5": "zz"}]},
              {"cmd": "x", "params": {"params.yaml": None}}, {"cmd": 3}):
    text = json.dumps({"schema": "2.0", "stages": {**true, "evaluate": entry}}).encode()
    path.write_bytes(text)
    try:
        dvc_repo.record(workspace, stage.name, manifest.load(workspace.root / stage.output))
        told[str(entry)] = "recorded"
    except FewstepError as error:
        told[str(entry)] = str(error) if path.read_bytes() == text else "refused, and changed"
print(json.dumps(told))
"""


def test_an_entry_of_another_stage_that_only_dvc_takes_is_refused_before_the_file_is_changed(project):
    done = project.python(ODD_ENTRIES)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told) == 4 and all("dvc.lock: stages.evaluate" in said for said in told.values()), told


@pytest.mark.parametrize("left", ["", '{"write": {"/data/sha'])
def test_claims_that_a_killed_dvc_left_broken_stop_nothing(fresh, finished, left):
    (fresh.folder / ".dvc" / "tmp").mkdir(exist_ok=True)
    (fresh.folder / ".dvc" / "tmp" / "rwlock").write_text(left)
    assert set(fresh.all()) == set(STAGES)
    assert lock(fresh) == (finished / "dvc.lock").read_bytes()


def test_dvc_accepts_what_our_runner_made(project):
    before = project.manifests(), lock(project)
    assert "up to date" in project.dvc("status").stdout
    done = project.dvc("repro")
    assert done.returncode == 0 and "Running stage" not in done.stdout, done.stdout + done.stderr
    assert (project.manifests(), lock(project)) == before


def test_our_runner_accepts_what_dvc_repro_made(fresh, finished):
    done = fresh.dvc("repro")
    assert done.returncode == 0, done.stdout + done.stderr
    entries = lock(fresh)
    assert fresh.all() == dict.fromkeys(STAGES, "current")
    assert lock(fresh) == entries == (finished / "dvc.lock").read_bytes()
    assert fresh.manifests() == {name: (finished / graph.stage(name).output / "manifest.json").read_bytes()
                                 for name in STAGES}
    assert all(item["recorded"] for item in plan(fresh).values())


def test_deciding_that_nothing_is_to_do_imports_nothing_heavy(project):
    done = json.loads(project.python(PLAN).stdout)
    assert done["modules"] == []
    assert all(item["state"] == "current" and item["recorded"] for item in done["items"])


EVERY_KEY = '''
import copy, json, sys
from pathlib import Path
from ruamel.yaml import YAML
from dvc.repo import Repo
from tasks.config import params_file as settings
from tasks.engine.plan import plan
from tasks.storage.workspace import Workspace

workspace = Workspace.find()
yaml = YAML()
original = workspace.params.read_text()
given = (workspace.root / "dvc.yaml").read_text()
changes = json.loads(sys.argv[1])
report = {}
for name, value in changes.items():
    data = YAML(typ="safe", pure=True).load(original)
    *sections, last = name.split(".")
    place = data
    for section in sections:
        place = place.setdefault(section, {})
    place[last] = value
    with open(workspace.params, "w") as stream:
        yaml.dump(data, stream)
    frozen = settings.load(workspace.params)
    stale = {item.stage: item.key for item in plan(workspace, frozen)
             if item.state != "current" and item.stage != "register"}
    with Repo(".") as repo:
        changed = repo.status()
    workspace.params.write_text(original)
    report[name] = [list(stale), [stage for stage, key in stale.items() if key and stage not in changed]]
print(json.dumps(report))
'''
CHANGES = {
    "seed": 5, "data.size": 16, "data.channels": 3, "data.max_corrupt_share": 0.5, "data.record_size": 17,
    "data.split": {"train": 0.5, "fit": 0.25, "test": 0.25}, "data.records_per_shard": 3,
    "teacher.images": 999, "teacher.batch": 10, "teacher.lr": 0.5, "teacher.channels": [8], "teacher.layers": 3,
    "teacher.class_dropout": 0.5, "teacher.ema": 0.5, "teacher.check.samples": 99, "teacher.check.steps": 9,
    "teacher.check.max_distance_ratio": 9.0, "teacher.check.max_terminal_snr": 0.5,
    "trajectories.count": 99, "trajectories.solver": "ddim", "trajectories.steps": 9, "trajectories.guidance": 2.0,
    "trajectories.keep": "all", "trajectories.record_size": 9, "trajectories.records_per_shard": 9,
    "trajectories.dtype": "float16", "trajectories.precision": "bfloat16", "trajectories.compile": False,
    "distill.recipe": "dmd2", "distill.images": 999, "distill.batch": 10, "distill.lr": 0.5, "distill.steps": 2,
    "evaluate.samples": 99, "evaluate.steps": [3], "evaluate.baseline_steps": [3], "evaluate.solvers": ["ddim"],
    "evaluate.guidance": 2.0, "evaluate.batch": 9, "evaluate.seed": 9, "evaluate.grid": 3,
    "evaluate.classifier.images": 99, "evaluate.classifier.lr": 0.5, "evaluate.classifier.features": 3,
    "evaluate.classifier.batch": 9,
}


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_settings_key_makes_stale_what_it_should_and_dvc_sees_all_of_it(project, step):
    changes = {name: CHANGES[name] for name in [*list(CHANGES)[::step], "evaluate.steps", "evaluate.classifier.lr"]}
    done = project.python(EVERY_KEY, json.dumps(changes))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {name: missed for name, (_, missed) in report.items() if missed} == {}   # what only follows has no key
    assert [name for name, (stale, _) in report.items() if not stale] == []
    for name, (stale, _) in report.items():
        section = name.split(".")[0]
        if name.startswith("evaluate.classifier"):
            assert stale == ["classifier", "baselines", "evaluate"], name
        elif section == "evaluate":
            assert set(stale) <= {"baselines", "evaluate"}, name
        elif section == "distill" and name != "distill.recipe":
            assert stale == ["distill", "evaluate"], name
        elif section == "teacher":
            assert stale == ["teacher", "reference", "classifier", "trajectories", "distill", "baselines",
                             "evaluate"], name
        elif section == "trajectories":
            assert stale == ["trajectories", "distill", "evaluate"], name
    assert report["evaluate.steps"][0] == ["evaluate"]


EVERY_FILE = '''
import contextlib, json, sys
from dvc.repo import Repo
from tasks.config import params_file
from tasks.engine import graph, stage_code
from tasks.engine.plan import plan, stat_table
from tasks.storage.workspace import Workspace

workspace = Workspace.find()
frozen = params_file.load(workspace.params)
missed, unseen = [], []
with contextlib.closing(stat_table(workspace)) as table:
    tree = stage_code.source_tree(workspace.root, workspace, table)
    names = sorted({name for stage in graph.IN_DVC
                    for name in stage_code.stage_code(stage, stage.resolve(frozen), tree).files})[::int(sys.argv[1])]
for name in names:
    path = workspace.root / name
    text = path.read_text()
    path.write_text(text + "\\n\\nEDITED = 1\\n")
    stage_code.running_tree.cache_clear()
    stale = [item.stage for item in plan(workspace, frozen)
             if item.key and item.state != "current" and item.stage != "register"]
    with Repo(".") as repo:
        changed = repo.status()
    path.write_text(text)
    if not stale:
        unseen.append(name)
    missed += [(name, stage) for stage in stale if stage not in changed]
print(json.dumps([len(names), unseen, missed]))
'''


@pytest.mark.parametrize("step", [31, pytest.param(1, marks=pytest.mark.slow)])
def test_an_edited_code_file_makes_stale_what_dvc_sees_as_changed(project, step):
    done = project.python(EVERY_FILE, str(step))
    assert done.returncode == 0, done.stderr
    count, unseen, missed = json.loads(done.stdout)
    assert count > 5 and unseen == [] and missed == []


def test_outside_inputs_are_dependencies_of_dvc_too(project):
    recipe = project.folder / "mine.yaml"
    shutil.copy(project.folder / "fewstep" / "recipes" / "kd.yaml", recipe)
    project.edit("recipe: kd", "recipe: mine.yaml")
    assert project.all("trajectories", "distill", "evaluate")["distill"] == "made"
    assert "up to date" in project.dvc("status", "distill").stdout
    assert "recipe: mine.yaml" in (project.folder / "dvc.yaml").read_text()
    recipe.write_text(recipe.read_text() + "\noptimiser: {lr: 0.5}\n")
    assert plan(project)["distill"]["state"] == "stale"
    assert "mine.yaml" in project.dvc("status", "distill").stdout
    project.edit("recipe: mine.yaml", "recipe: kd")
    assert project.all("trajectories", "distill", "evaluate")["distill"] == "restored"
    assert f"recipe: {'fewstep/__init__.py'}" in (project.folder / "dvc.yaml").read_text()
    assert "up to date" in project.dvc("status", "distill").stdout


def test_an_output_made_before_is_put_back_not_made_again(project):
    first = project.manifests()
    project.edit("images: 80000", "images: 101")
    assert plan(project)["distill"]["state"] == "stale"
    assert project.all() == {**dict.fromkeys(STAGES, "current"), "distill": "made", "evaluate": "made"}
    project.edit("images: 101", "images: 80000")
    assert [plan(project)[name]["state"] for name in ("distill", "evaluate")] == ["restorable", "restorable"]
    assert project.all() == {**dict.fromkeys(STAGES, "current"), "distill": "restored", "evaluate": "restored"}
    assert project.manifests() == first
    assert "up to date" in project.dvc("status").stdout


@pytest.mark.slow
def test_a_cache_that_is_not_whole_is_no_reason_to_fail(project):
    project.edit("images: 80000", "images: 101")
    project.all()
    project.edit("images: 101", "images: 80000")
    for path in (project.folder / ".dvc" / "cache" / "files").rglob("*"):
        if path.is_file() and not path.name.endswith(".dir"):
            os.chmod(path, 0o644)
            path.write_bytes(b"other bytes")
    done = project.python(ALL)
    assert done.returncode == 0, done.stderr
    assert "distill made" in done.stdout and "not restored from DVC's cache" in done.stderr


WORKTREE = '''
import sys
from pathlib import Path
from tasks.storage import git; from tasks.storage.dvc import dvc_repo as versioning
from tasks.storage.workspace import Workspace
main = Workspace.find()
versioning.share_cache(main, git.add_worktree(main, Path(sys.argv[1])))
'''


def test_a_worktree_takes_what_the_main_checkout_has_made(project):
    target = project.folder.parent / "tree"
    done = project.python(WORKTREE, str(target))
    assert done.returncode == 0, done.stderr
    other = FakeProject.at(target)
    assert other.all() == dict.fromkeys(STAGES, "restored")
    assert other.manifests() == project.manifests()
    assert not (target / ".dvc" / "cache").exists()


# edits while a stage runs


def edited_during(project: FakeProject, stage: str, edit, *, dvc: bool) -> subprocess.CompletedProcess:
    """Runs the stage alone and calls `edit` while it works."""
    marks = project.folder.parent / "marks"
    environment = {"FAKE_MARKS": str(marks), f"FAKE_PAUSE_{stage}": "0.4"}
    command = ([str(Path(sys.executable).with_name("dvc")), "repro", "-s", stage] if dvc
               else [sys.executable, "-c", ALL, stage])
    process = subprocess.Popen(command, cwd=project.folder, env=project.environment(**environment), text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    project.wait_for(marks / f"{stage}-b.started")
    edit()
    output = process.communicate()[0]
    return subprocess.CompletedProcess(command, process.returncode, output)


def test_params_edited_during_a_run_keep_the_result_and_refuse_the_record(project):
    project.edit("images: 80000", "images: 101")
    before = lock(project)
    done = edited_during(project, "distill", lambda: project.edit("images: 101", "images: 300"), dvc=False)
    assert done.returncode == 0, done.stdout
    assert "not recorded in dvc.lock" in done.stdout and "images: 101 → 300" in done.stdout
    assert lock(project) == before
    assert json.loads(project.manifests()["distill"])["settings"]["images"] == 101
    assert "distill" in project.dvc("status").stdout
    project.edit("images: 300", "images: 101")      # the result is still there for whoever wants it
    assert plan(project)["distill"]["state"] == "current"
    assert project.all() == {**dict.fromkeys(STAGES, "current"), "evaluate": "made"}
    assert "up to date" in project.dvc("status").stdout


def test_an_input_edited_during_a_run_refuses_the_record(project):
    project.edit("images: 80000", "images: 101")
    before = lock(project)
    victim = project.folder / "data" / "teacher" / "c.bin"
    done = edited_during(project, "distill", lambda: victim.write_bytes(b"edited"), dvc=False)
    assert done.returncode == 0 and "not recorded in dvc.lock" in done.stdout and str(victim) in done.stdout
    assert lock(project) == before
    states = project.all()
    assert (states["teacher"], states["distill"]) == ("restored", "current")
    assert "up to date" in project.dvc("status").stdout


def test_what_plain_dvc_repro_recorded_falsely_is_named_and_made_again(project):
    project.edit("images: 80000", "images: 101")
    done = edited_during(project, "distill", lambda: project.edit("images: 101", "images: 300"), dvc=True)
    assert done.returncode == 0, done.stdout
    assert "distill" not in project.dvc("status", "distill").stdout     # DVC believes what it wrote
    item = plan(project)["distill"]
    assert item["state"] == "stale" and "101 → 300" in item["false_record"]
    verified = project.run("verify")
    assert "dvc.lock says that 'distill' is up to date" in verified.stdout
    again = project.python(ALL)
    assert "WARNED distill dvc.lock says" in again.stderr and "distill made" in again.stdout
    assert plan(project)["distill"]["false_record"] is None
    assert "up to date" in project.dvc("status").stdout


@pytest.mark.slow
def test_an_input_edited_while_dvc_repro_ran_is_named(project):
    project.edit("images: 80000", "images: 101")
    victim = project.folder / "data" / "teacher" / "c.bin"
    done = edited_during(project, "distill", lambda: victim.write_bytes(b"edited"), dvc=True)
    assert done.returncode == 0, done.stdout
    item = plan(project)["teacher"]
    assert item["state"] == "restorable" and str(victim) in item["why"]
    assert project.all()["teacher"] == "restored"
    assert "up to date" in project.dvc("status").stdout
