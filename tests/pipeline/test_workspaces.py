"""Workspaces apart from the code, made by `fewstep init`: what they share, what they record, what they refuse."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from fewstep.util.errors import SettingsError
from tasks.storage import new_workspace
from tasks.storage.code_state import code_state, sources
from tasks.storage.dvc import cache_users
from tasks.storage.workspace import Workspace
from tests.apart import ApartWorkspace
from tests.fake_project import STAGES, FakeProject, plan
from tests.project import ROOT, _git

CURRENT, MADE, RESTORED = (dict.fromkeys(STAGES, state) for state in ("current", "made", "restored"))
GC = """
import json, sys
from tasks.storage.dvc.dvc_garbage import collect_garbage
from tasks.storage.workspace import Workspace
print(json.dumps(collect_garbage(Workspace.find(), set())))
"""
ACCEPT = """
from tasks.config import params_file
from tasks.engine.accept import accept
from tasks.storage.locks import workspace_lock
from tasks.storage.workspace import Workspace
workspace = Workspace.find()
with workspace_lock(workspace, "accept"):
    print(accept(workspace, params_file.load(workspace.params), None, why="a new name", who="eve"))
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory) -> FakeProject:
    return FakeProject(tmp_path_factory.mktemp("code") / "fewstep")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache") / "dvc"


@pytest.fixture(scope="module")
def first(tmp_path_factory, code, cache) -> ApartWorkspace:
    """A workspace in which everything was made."""
    workspace = ApartWorkspace(tmp_path_factory.mktemp("spaces") / "first", code, cache)
    assert workspace.all() == MADE
    return workspace


def states(workspace: ApartWorkspace) -> dict[str, str]:
    return {name: item["state"] for name, item in plan(workspace).items()}


def test_a_workspace_has_no_code_and_runs_that_of_the_checkout(first, code):
    listed = set(_git(first.folder, "ls-files").splitlines())
    assert {"params.yaml", "dvc.yaml", "data/README.md", ".gitignore", ".dvc/config", ".dvcignore"} <= listed
    assert not (first.folder / "fewstep").exists() and Workspace(first.folder).code == code.folder
    assert str(code.folder) not in "".join((first.folder / name).read_text() for name in ("dvc.yaml", "dvc.lock"))
    assert states(first) == CURRENT
    assert "up to date" in first.dvc("status").stdout
    assert str(code.folder) in first.said and "next: cd" in first.said


def test_a_second_workspace_takes_from_the_shared_cache_and_neither_deletes_what_the_other_needs(first, code, cache):
    second = ApartWorkspace(first.folder.with_name("second"), code, cache)
    assert "shared with 1 other workspace" in second.said
    assert [other.root for other in cache_users.others(Workspace(second.folder))] == [first.folder]
    assert second.all() == RESTORED and second.digests() == first.digests()
    (first.folder / "dvc.lock").rename(first.folder / "lock")      # the first needs nothing any more
    try:
        gone = json.loads(first.python(GC).stdout)
    finally:
        (first.folder / "lock").rename(first.folder / "dvc.lock")
    assert gone["removed"] == 0 and gone["forgotten"] == len(STAGES)
    assert states(second) == CURRENT and second.dvc("checkout").returncode == 0
    assert first.all() == CURRENT


def test_code_that_changes_is_seen_and_accepted_by_the_commit_that_made_the_output(first, code):
    stage = code.folder / "tasks" / "stages" / "shard.py"
    before = stage.read_text()
    stage.write_text(before.replace('"""', '"""Said otherwise. ', 1))
    assert states(first) == CURRENT
    stage.write_text(before + "\n\nANOTHER_NAME = 1\n")
    try:
        assert plan(first)["shard"]["state"] == "stale" and "code" in plan(first)["shard"]["why"]
        assert "modified" in first.dvc("status").stdout
        done = first.python(ACCEPT)
        assert "stages=['shard']" in done.stdout, done.stdout + done.stderr
        assert states(first) == CURRENT
        manifest = json.loads((first.folder / "data" / "shards" / "manifest.json").read_text())
        assert manifest["accepted"][0]["compared"]["commit"] == _git(code.folder, "rev-parse", "HEAD")
    finally:
        stage.write_text(before)
    assert states(first)["shard"] == "current"


def test_what_is_recorded_says_both_commits_and_never_calls_changed_code_clean(first, code):
    workspace = Workspace(first.folder)
    made_of = sources(workspace)
    assert made_of.workspace.commit == _git(first.folder, "rev-parse", "HEAD") != made_of.code.commit
    assert made_of.code.commit == _git(code.folder, "rev-parse", "HEAD") and not made_of.code.modified
    settings = code.folder / "params.yaml"     # of the checkout's own experiment: no code
    kept, new = settings.read_text(), code.folder / "fewstep" / "new_module.py"
    settings.write_text(kept + "\n")
    try:
        assert not code_state(workspace).modified
        new.write_text("x = 1\n")
        changed = sources(workspace, commit_changes=True)
        assert changed.code.modified and "new_module" in changed.code.diff and changed.modified
        assert "fewstep/new_module.py" in _git(code.folder, "show", "--stat", changed.code.commit)
        assert _git(code.folder, "status", "--short", "fewstep") == "?? fewstep/new_module.py"
        new.unlink()
        (code.folder / "flows" / "cli.py").rename(code.folder / "cli.py")
        assert code_state(workspace).modified
    finally:
        new.unlink(missing_ok=True)
        if (code.folder / "cli.py").exists():
            (code.folder / "cli.py").rename(code.folder / "flows" / "cli.py")
        settings.write_text(kept)


def test_code_outside_git_has_no_commit_even_below_a_repository(tmp_path):
    _git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("/venv\n")
    _git(tmp_path, "add", "-A")
    _git(tmp_path, "commit", "-qm", "a repository with an installation in it")
    for name in ("fewstep", "tasks", "flows"):
        (tmp_path / "venv" / name).mkdir(parents=True)
        (tmp_path / "venv" / name / "__init__.py").touch()
    space = tmp_path / "space"
    space.mkdir()
    workspace = Workspace(space)
    workspace.use_code(tmp_path / "venv")
    assert workspace.code == tmp_path / "venv" and code_state(workspace).commit is None
    assert sources(workspace).origin.told() == "outside git"


def test_a_clone_of_a_workspace_uses_the_code_that_runs_and_other_code_is_refused(first, code, tmp_path):
    subprocess.run(["git", "clone", "-q", str(first.folder), "clone"], cwd=tmp_path, check=True)
    clone = ApartWorkspace.__new__(ApartWorkspace)
    clone.folder, clone.code = tmp_path / "clone", code
    assert set(states(clone).values()) == {"missing"}
    assert (clone.folder / ".fewstep" / "source").resolve() == code.folder
    other = FakeProject(tmp_path / "other")
    with open(other.folder / "tasks" / "stages" / "shard.py", "a") as stream:
        stream.write("\n\nANOTHER = 1\n")
    clone.code = other
    done = clone.run("stage", "run", "shard")
    assert done.returncode == 2 and "differs from this workspace's" in done.stderr
    assert f"remove {clone.folder}/.fewstep/source" in " ".join(done.stderr.split())
    (clone.folder / ".fewstep" / "source").unlink()
    assert clone.all("shard") == {"shard": "made"}


def test_stages_that_newer_code_declares_enter_the_dvc_yaml_of_the_workspace(first):
    path = first.folder / "dvc.yaml"
    before = path.read_text()
    path.write_text(before.replace("cmd: fewstep stage run shard", "cmd: fewstep shards") + "# mine\n")
    assert first.all("shard") == {"shard": "current"}
    now = path.read_text()
    assert "fewstep stage run shard" in now and now.rstrip().endswith("# mine")


@pytest.mark.parametrize(("name", "lead"), [
    ("sdxl-dmd2", "# Stable Diffusion XL"), ("examples/sd3-tdm.yaml", "# Stable Diffusion 3"),
    (str(ROOT / "examples" / "emoji.yaml"), "# A text teacher"), (None, "name: digits"),
])
def test_settings_come_from_an_example_or_a_file(tmp_path, name, lead):
    made = new_workspace.make(tmp_path / "space", name, tmp_path / "cache")
    text = (tmp_path / "space" / "params.yaml").read_text()
    assert text.startswith(lead) and made.commit
    assert "trajectories:" in text and "encode:" in text


def test_what_cannot_be_a_workspace_is_refused_and_left_alone(tmp_path):
    made = new_workspace.make(tmp_path / "space", None, tmp_path / "cache").workspace
    cases = {
        made.root: "is not empty", made.root / "inner" / "deeper": f"lies in the workspace {made.root}",
        ROOT / "inner": "lies in the workspace", made.params: "lies in the workspace", tmp_path / "a:b": "':'",
    }
    for folder, said in cases.items():
        with pytest.raises(SettingsError, match=said):
            new_workspace.make(folder, None, tmp_path / "cache")
    assert not (ROOT / "inner").exists() and not (made.root / "inner").exists()
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="is a file"):
        new_workspace.make(tmp_path / "file", None, tmp_path / "cache")
    with pytest.raises(SettingsError, match="did you mean 'sdxl-dmd2'"):
        new_workspace.make(tmp_path / "new", "sdxl-dmd", tmp_path / "cache")
    (tmp_path / "bad.yaml").write_text("distil: {}\n")
    with pytest.raises(SettingsError, match="unknown key"):
        new_workspace.make(tmp_path / "new", str(tmp_path / "bad.yaml"), tmp_path / "cache")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_holds_nothing_but_a_repository_is_taken(tmp_path):
    (tmp_path / "space").mkdir()
    _git(tmp_path / "space", "init", "-q", "-b", "trunk")
    new_workspace.make(tmp_path / "space", None, tmp_path / "cache")
    assert _git(tmp_path / "space", "branch", "--show-current") == "trunk"
    assert _git(tmp_path / "space", "status", "--short") == ""
