"""Commits that are on no remote go to another clone as a file."""

import subprocess

import pytest

from fewstep.util.errors import FewstepError
from tasks.storage import git
from tests.project import _git

REFERENCE = "refs/fewstep/runs/toy"


@pytest.fixture
def clones(tmp_path):
    """Two clones of one repository; the first has a commit that it did not push, under REFERENCE."""
    _git(tmp_path, "init", "-q", "--bare", "origin")
    for name in ("one", "two"):
        subprocess.run(["git", "clone", "-q", "origin", name], cwd=tmp_path, check=True, capture_output=True)
        if name == "one":
            (tmp_path / "one" / "file").write_text("1")
            _git(tmp_path / "one", "add", "file")
            _git(tmp_path / "one", "commit", "-qm", "first")
            _git(tmp_path / "one", "push", "-q", "origin", "HEAD")
    (tmp_path / "one" / "file").write_text("2")
    _git(tmp_path / "one", "commit", "-qam", "second")
    _git(tmp_path / "one", "update-ref", REFERENCE, "HEAD")
    return tmp_path / "one", tmp_path / "two"


def test_a_commit_that_no_remote_has_reaches_another_clone(clones, tmp_path):
    one, two = clones
    commit = _git(one, "rev-parse", "HEAD")
    assert git.knows(one, commit) and not git.knows(two, commit)
    assert git.bundle(one, REFERENCE, tmp_path / "bundle")
    git.unbundle(two, REFERENCE, tmp_path / "bundle")
    assert git.knows(two, commit) and _git(two, "show", f"{REFERENCE}:file") == "2"
    _git(one, "push", "-q", "origin", "HEAD")
    assert not git.bundle(one, REFERENCE, tmp_path / "nothing") and not (tmp_path / "nothing").exists()


def test_a_clone_that_lacks_what_the_bundle_begins_with_says_so(clones, tmp_path):
    one, _ = clones
    git.bundle(one, REFERENCE, tmp_path / "bundle")
    _git(tmp_path, "init", "-q", "stranger")
    with pytest.raises(FewstepError, match="git fetch"):
        git.unbundle(tmp_path / "stranger", REFERENCE, tmp_path / "bundle")
