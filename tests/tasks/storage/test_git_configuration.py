"""What the user configured for git decides nothing: neither what counts as uncommitted nor what is tagged."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from fewstep.util.errors import FewstepError, NotAvailable
from tasks.storage import git
from tasks.storage.code_state import workspace_state
from tasks.storage.workspace import Workspace

CONFIGURATIONS = [
    {"diff.external": "true"}, {"color.ui": "always"}, {"color.diff": "always"}, {"diff.noprefix": "true"},
    {"diff.mnemonicPrefix": "true"}, {"diff.context": "0"}, {"diff.renames": "copies"}, {"diff.relative": "true"},
    {"diff.algorithm": "patience"}, {"diff.orderFile": "order"}, {"diff.interHunkContext": "9"},
    {"diff.srcPrefix": "x/"}, {"diff.wordRegex": "."}, {"diff.suppressBlankEmpty": "true"}, {"diff.dirstat": "files"},
    {"diff.py.textconv": "echo same"}, {"diff.py.command": "true"}, {"core.quotePath": "false"},
    {"status.short": "true"}, {"status.branch": "true"}, {"status.showUntrackedFiles": "no"}, {"core.pager": "false"},
    {"diff.ignoreSubmodules": "all"}, {"core.fsmonitor": "/bin/false"}, {"commit.gpgSign": "true"},
    {"log.showSignature": "true"}, {"log.date": "relative"}, {"format.pretty": "oneline"}, {"tag.gpgSign": "true"},
    {"core.ignoreStat": "true"}, {"core.checkStat": "minimal"}, {"core.trustctime": "false"},
    {"core.untrackedCache": "true"}, {"index.sparse": "true"},
    {"alias.diff": "log"}, {"core.abbrev": "4"}, {"log.showRoot": "false"}, {"core.commentChar": "x"},
]  # fmt: skip


def run(folder, *arguments, data=None):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, input=data).stdout


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    root = tmp_path / "p"
    root.mkdir()
    (root / ".gitattributes").write_text("*.py diff=py\n")
    (root / "one.py").write_text("".join(f"x{number} = {number}\n" for number in range(40)))
    (root / "order").write_text("two.py\none.py\n")
    run(root, "init", "-q")
    run(root, "add", "-A")
    run(root, "commit", "-qm", "start")
    return Workspace(root)


def edit(root):
    path = root / "one.py"
    path.write_text(path.read_text().replace("x3 = 3\n", "x3 = 4\n\n").replace("x20 = 20", "x20 = 21"))
    shutil.copy(path, root / "two.py")


@pytest.mark.parametrize("settings", CONFIGURATIONS, ids=lambda settings: next(iter(settings)))
def test_uncommitted_code_is_seen_and_the_patch_is_the_same(place, tmp_path, settings):
    assert not workspace_state(place).modified
    edit(place.root)
    expected = workspace_state(place)
    for key, value in settings.items():
        run(place.root, "config", key, value)
    state = workspace_state(place)
    assert state == expected and state.modified
    assert workspace_state(place, commit_changes=True).commit != state.commit
    run(tmp_path, "clone", "-q", str(place.root), "clone")
    run(tmp_path / "clone", "apply", data=(state.diff + "\n").encode())
    for name in ("one.py", "two.py"):
        assert (tmp_path / "clone" / name).read_text() == (place.root / name).read_text()
    tagged = git.tag_snapshot(place.root, "m/1", {"params.yaml": b"a"})
    assert tagged == run(place.root, "rev-parse", "m/1").decode().strip()
    assert git.read_at(place, "m/1", "params.yaml") == b"a"


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="makes a key to sign with")
def test_a_signed_commit_can_be_tagged(place, tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "k")], check=True)
    signing = {"gpg.format": "ssh", "user.signingkey": f"{tmp_path}/k.pub", "log.showSignature": "true"}
    for key, value in signing.items():
        run(place.root, "config", key, value)
    run(place.root, "commit", "-q", "--allow-empty", "-S", "-m", "signed")
    commit = git.tag_snapshot(place.root, "m/1", {"params.yaml": b"a"})
    raw = run(place.root, "show", "--no-show-signature", "--no-patch", "--format=%cd", "--date=raw", commit)
    assert raw.decode().strip() == git.committed_at(place.root, "HEAD")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another user")
def test_a_repository_of_another_user_is_named_with_the_command_that_trusts_it(place):
    for folder, _, names in os.walk(place.root):
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            os.chown(path, 12345, 12345)
    for ask in (lambda: git.head(place.root), lambda: workspace_state(place), lambda: git.worktrees(place),
                lambda: git.read_at(place, "HEAD", "one.py")):  # fmt: skip
        with pytest.raises(FewstepError, match="another user") as caught:
            ask()
        assert not isinstance(caught.value, NotAvailable)
    subprocess.run(caught.value.hint, shell=True, check=True)
    assert git.head(place.root)


def test_a_repository_whose_configuration_is_broken_is_not_taken_for_none(place):
    with open(place.root / ".git" / "config", "a") as file:
        file.write("[broken\n")
    with pytest.raises(FewstepError, match="bad config"):
        git.head(place.root)


@pytest.mark.parametrize("damage", ["the commit", "a gitfile"])
def test_a_repository_that_is_damaged_is_not_taken_for_none(place, damage):
    if damage == "a gitfile":
        (place.root / ".git").rename(place.root.parent / "moved.git")
        (place.root / ".git").write_text("gitdir: nowhere\n")
    else:
        name = run(place.root, "rev-parse", "HEAD").decode().strip()
        path = place.root / ".git" / "objects" / name[:2] / name[2:]
        path.chmod(0o644)
        path.write_bytes(b"garbage")
    for ask in (lambda: git.head(place.root), lambda: git.read_at(place, "HEAD", "one.py")):
        with pytest.raises(FewstepError, match="git cannot read the repository") as caught:
            ask()
        assert not isinstance(caught.value, NotAvailable)


def test_a_file_that_a_commit_does_not_have_is_not_available(place):
    with pytest.raises(NotAvailable, match="git has no absent.py"):
        git.read_at(place, "HEAD", "absent.py")


def test_no_repository_and_no_commit_are_no_error(tmp_path):
    assert git.head(tmp_path) is None
    run(tmp_path, "init", "-q")
    assert git.head(tmp_path) is None


@pytest.mark.parametrize("bit", ["--assume-unchanged", "--skip-worktree"])
def test_what_git_was_told_to_overlook_is_seen(place, bit):
    run(place.root, "update-index", bit, "one.py")
    assert not workspace_state(place).modified
    edit(place.root)
    (place.root / "two.py").unlink()
    assert run(place.root, "status", "--porcelain", "--untracked-files=no") == b""
    state = workspace_state(place, commit_changes=True)
    assert state.modified and "+x3 = 4" in state.diff
    assert b"x3 = 4" in run(place.root, "show", f"{state.commit}:one.py")


@pytest.mark.parametrize("cone", [True, False])
def test_a_sparse_checkout_is_as_its_commit_and_shows_what_is_edited_in_it(place, tmp_path, cone):
    inner = place.root / "inner"        # the workspace may lie below the top of the repository
    for name in ("kept/a.py", "left/b.py", "left/c.py"):
        (inner / name).parent.mkdir(parents=True, exist_ok=True)
        (inner / name).write_text("x = 1\n")
    run(place.root, "add", "-A")
    run(place.root, "commit", "-qm", "more")
    clone = tmp_path / "clone"
    run(tmp_path, "clone", "-q", "--no-checkout", str(place.root), "clone")
    pattern = ["--cone", "inner/kept"] if cone else ["--no-cone", "/*", "!/inner/left/"]
    run(clone, "sparse-checkout", "set", *pattern)
    run(clone, "checkout", "-q")
    assert (clone / "inner" / "kept").is_dir() and not (clone / "inner" / "left").exists()
    for folder in (clone, clone / "inner"):
        state = workspace_state(Workspace(folder), commit_changes=True)
        assert not state.modified and state.diff == "" and state.commit == git.head(clone)
    (clone / "inner" / "left").mkdir()
    (clone / "inner" / "left" / "b.py").write_text("x = 2\n")  # there again, and other
    state = workspace_state(Workspace(clone / "inner"), commit_changes=True)
    assert state.modified and "+x = 2" in state.diff
    assert run(clone, "show", f"{state.commit}:inner/left/b.py") == b"x = 2\n"
    assert run(clone, "show", f"{state.commit}:inner/left/c.py") == b"x = 1\n"
    (clone / "inner" / "left" / "b.py").unlink()
    (clone / "inner" / "kept" / "a.py").unlink()
    state = workspace_state(Workspace(clone / "inner"), commit_changes=True)
    changed = run(clone, "diff", "--name-status", "HEAD", state.commit).decode().split()
    assert state.modified and changed == ["D", "inner/kept/a.py"]
