"""What leaves the checkout and comes back: DVC's remote, its garbage, snapshots under git's tags."""

from __future__ import annotations

import json
import shutil
import subprocess

from tests.fake_project import STAGES, FakeProject, lock, plan
from tests.project import _git

PUSH = "from tasks.storage.dvc import dvc_repo; from tasks.storage.workspace import Workspace; "


def test_push_and_pull_bring_a_clone_to_the_same_outputs(project):
    done = project.python(PUSH + "print(dvc_repo.push(Workspace.find()))")
    assert done.stdout.strip() == "0", done.stderr     # every stage was pushed when it was finished
    lock_text = lock(project)
    for name in (".dvc/cache", "data", ".fewstep/published", ".fewstep/recorded"):
        shutil.rmtree(project.folder / name)
    done = project.python(PUSH + "dvc_repo.pull(Workspace.find())")
    assert done.returncode == 0, done.stderr
    assert project.all() == dict.fromkeys(STAGES, "current")
    assert lock(project) == lock_text


GARBAGE = '''
import json, sys
from tasks.storage.dvc import dvc_garbage
from tasks.storage.workspace import Workspace
print(json.dumps(dvc_garbage.collect_garbage(Workspace.find(), set(json.loads(sys.argv[1])))))
'''
SNAPSHOT = '''
import sys
from tasks.storage import git
from tasks.storage.workspace import Workspace
root = Workspace.find().root
print(git.tag_snapshot(root, sys.argv[1], {name: root / name for name in git.SNAPSHOT}))
'''
CHECKOUT = '''
import sys
from pathlib import Path
from tasks.storage import git; from tasks.storage import snapshots
from tasks.storage.workspace import Workspace
from fewstep.util.errors import FewstepError
here = Workspace.find()
try:
    wanted = {name: git.read_at(here, sys.argv[1], name) for name in git.SNAPSHOT}
    lost = [] if len(sys.argv) > 2 else snapshots.local_changes(here, wanted)
    print(lost or snapshots.restore(here, sys.argv[1], wanted, *map(Path, sys.argv[2:])).root)
except FewstepError as error:
    print(type(error).__name__, error)
'''


def test_garbage_is_what_no_tag_no_key_and_no_checkout_uses(project):
    def status():
        return subprocess.check_output(["git", "status", "--porcelain"], cwd=project.folder)

    old, before = json.loads(project.manifests()["distill"])["key"], status()
    commits = [project.python(SNAPSHOT, "fewstep/m/v1").stdout for _ in range(2)]      # no identity is configured here
    assert commits[0] == commits[1] != "" and status() == before
    keys = {}
    for images in (101, 300):
        project.edit("images: 80000" if images == 101 else "images: 101", f"images: {images}")
        project.all("distill")
        keys[images] = json.loads(project.manifests()["distill"])["key"]
    clash = project.python(SNAPSHOT, "fewstep/m/v1")
    assert clash.returncode and "exists and holds something else" in clash.stderr
    done = project.python(GARBAGE, "[]")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["removed"] > 0 and json.loads(done.stdout)["forgotten"] == 1
    names = {path.stem for path in (project.folder / ".fewstep" / "published").glob("*.json")}
    assert {old, keys[300]} <= names and keys[101] not in names
    assert json.loads(project.python(GARBAGE, "[]").stdout)["removed"] == 0
    project.edit("images: 300", "images: 80000")
    assert project.all("distill")["distill"] == "restored"


def test_of_a_cache_outside_of_the_repository_only_what_is_ours_goes(project, tmp_path):
    outside = tmp_path / "cache"
    shutil.move(project.folder / ".dvc" / "cache", outside)
    project.dvc("cache", "dir", "-q", str(outside))
    for images in (101, 300):
        project.edit("images: 80000" if images == 101 else "images: 101", f"images: {images}")
        project.all("distill")
    others = outside / "files" / "md5" / "ab" / ("c" * 30)
    others.parent.mkdir(exist_ok=True)
    others.write_text("of another repository")
    done = project.python(GARBAGE, "[]")
    assert done.returncode == 0 and json.loads(done.stdout)["removed"] > 0, done.stderr
    assert others.read_text() == "of another repository"


def test_a_snapshot_is_checked_out_and_local_changes_are_not_lost(project):
    first = project.manifests()
    assert project.python(SNAPSHOT, "fewstep/m/v1").returncode == 0
    project.edit("images: 80000", "images: 101")
    refused = project.python(CHECKOUT, "fewstep/m/v1")
    assert "params.yaml has changes that are not committed" in refused.stdout
    project.all("distill")
    _git(project.folder, "commit", "-qam", "other")
    _git(project.folder, "add", "dvc.lock")
    _git(project.folder, "commit", "-qm", "lock")
    into = project.folder.parent / "into"
    done = project.python(CHECKOUT, "fewstep/m/v1", str(into))
    assert done.stdout.strip() == str(into), done.stdout + done.stderr
    assert FakeProject.at(into).manifests() == first
    assert project.manifests() != first
    done = project.python(CHECKOUT, "fewstep/m/v1")
    assert done.stdout.strip() == str(project.folder), done.stdout + done.stderr
    assert project.manifests() == first and all(item["state"] == "current" for item in plan(project).values())
    unknown = project.python(CHECKOUT, "fewstep/m/v9")
    assert unknown.stdout.startswith("NotAvailable git has no params.yaml at fewstep/m/v9")
