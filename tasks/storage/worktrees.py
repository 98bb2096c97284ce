"""Workspaces of isolated and scheduled runs: git worktrees of a recorded commit, below .fewstep/worktrees.

Uncommitted changes become a commit that no branch points at; the reference refs/fewstep/runs/<run> keeps it from git's
garbage collection. The user's files, index, branches and stash stay as they are.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tasks.storage import dvc_repo, git
from tasks.storage.workspace import Workspace

_CODE = (".py", ".yaml", ".yml", ".toml", ".dvc", ".lock")
_NO_DOCUMENTS = ":(exclude)docs"     # tables and pictures that commands write there change no run


@dataclass(frozen=True)
class CodeState:
    """The code that a run executes: a commit (None outside git), and its difference to HEAD as a patch."""

    commit: str | None
    diff: str

    @property
    def modified(self) -> bool:
        return bool(self.diff)


def code_state(workspace: Workspace, *, commit_changes: bool = False) -> CodeState:
    """HEAD and the uncommitted changes of tracked files and of new files of code and settings.

    Data does not count, nor does dvc.lock, which every run changes.

    Args:
        commit_changes: commit the changes, as a child of HEAD that is on no branch, and return that commit.
    """
    root = workspace.root
    head, _ = git.head(root)
    if head is None:
        return CodeState(None, "")
    with tempfile.TemporaryDirectory() as folder:   # for an index beside the user's
        index = {"GIT_INDEX_FILE": os.path.join(folder, "index")}
        git.git(root, "read-tree", "HEAD", env=index)
        git.git(root, "add", "--update", ".", _NO_DOCUMENTS, env=index)
        others = git.git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", ".", _NO_DOCUMENTS, env=index)
        new = [name for name in others.split("\0") if name.endswith(_CODE)]
        if new:
            git.git(root, "update-index", "--add", "-z", "--stdin", env=index,
                    data=("\0".join(new) + "\0").encode(errors="surrogateescape"))
        diff = git.git(root, "diff", "--cached", "--binary", "HEAD", "--", ".", ":(exclude)dvc.lock", env=index)
        if not commit_changes:
            return CodeState(head, diff)
        tree = git.git(root, "write-tree", env=index)
    if tree == git.git(root, "rev-parse", "HEAD^{tree}"):
        return CodeState(head, diff)
    message = "fewstep: uncommitted changes of a run"
    commit = git.git(root, "commit-tree", tree, "-p", head, "-m", message, env=git.IDENTITY)
    return CodeState(commit, diff)


def same_code(workspace: Workspace, commit: str | None, other: str | None) -> bool:
    """Whether two commits hold the same files; False if either is None or unknown here."""
    if not commit or not other:
        return False
    trees = [git.git(workspace.root, "rev-parse", "--verify", "--quiet", f"{name}^{{tree}}", check=False)
             for name in (commit, other)]
    return bool(trees[0]) and trees[0] == trees[1]


def is_tracked(workspace: Workspace, path: Path) -> bool:
    """Whether git tracks the file `path`, or a file in the folder `path`."""
    return bool(git.git(workspace.root, "ls-files", "--", str(path), check=False))


def folder(workspace: Workspace, run: str) -> Path:
    """Where the worktree of `run` lies."""
    return workspace.shared / "worktrees" / run


def add(workspace: Workspace, run: str, commit: str) -> Workspace:
    """The worktree of `run`, over the shared DVC cache; made of `commit` unless an earlier attempt has made it."""
    path = folder(workspace, run)
    ready = path.with_name(run + ".ready")      # written last: a kill leaves no half checkout that counts
    prefix = git.git(workspace.root, "rev-parse", "--show-prefix")
    if not ready.exists():
        remove(workspace, run)
        git.git(workspace.root, "update-ref", f"refs/fewstep/runs/{run}", commit)
        git.add_worktree(workspace, path, commit)
        dvc_repo.share_cache(Workspace(workspace.shared.parent), Workspace((path / prefix).resolve()))
        ready.touch()
    return Workspace((path / prefix).resolve())


def bring(worktree: Workspace, target: str) -> None:
    """Put the data that the .dvc file `target` of the worktree names in place, from the shared cache or the remote."""
    with dvc_repo.repository(worktree) as repo:
        if repo.config.get("core", {}).get("remote"):
            repo.pull(targets=[target])
        else:
            repo.checkout(targets=[target])


def remove(workspace: Workspace, run: str) -> None:
    """Delete the worktree of `run`, if there is one. Its outputs stay in DVC's cache, its commit in git."""
    path = folder(workspace, run)
    path.with_name(run + ".ready").unlink(missing_ok=True)
    git.git(workspace.root, "worktree", "remove", "--force", "--force", str(path), check=False)
    if path.exists():
        shutil.rmtree(path)
    git.git(workspace.root, "worktree", "prune")


def present(workspace: Workspace) -> list[str]:
    """Names of the runs that have a worktree, sorted."""
    base = workspace.shared / "worktrees"
    return sorted(path.name for path in base.iterdir() if path.is_dir()) if base.is_dir() else []
