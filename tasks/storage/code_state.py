"""The state of the code as a git commit: HEAD, or HEAD with the uncommitted changes in a commit that no branch knows."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass

from tasks.storage import git
from tasks.storage.file_io import atomic_write
from tasks.storage.workspace import Workspace

_CODE = (".py", ".yaml", ".yml", ".toml", ".dvc", ".lock")
_NO_DOCUMENTS = ":(exclude)docs"     # tables and pictures that commands write there change no run


@dataclass(frozen=True)
class CodeState:
    """What a run is made of: `commit` (None outside git) and the difference of the files to HEAD."""

    commit: str | None
    diff: str

    @property
    def modified(self) -> bool:
        return bool(self.diff)


def code_state(workspace: Workspace, *, commit_changes: bool = False) -> CodeState:
    """HEAD and the uncommitted changes: of tracked files, and new files of code and settings (not of data; that
    dvc.lock differs after a run is no change).

    With `commit_changes` the returned commit holds them: a child of HEAD that no branch knows.
    """
    root = workspace.root
    head, _ = git.head(root)
    if head is None:
        return CodeState(None, "")
    with tempfile.TemporaryDirectory() as folder:   # an index of our own
        own = {"GIT_INDEX_FILE": os.path.join(folder, "index")}
        git.git(root, "read-tree", "HEAD", env=own)
        git.git(root, "add", "--update", ".", _NO_DOCUMENTS, env=own)
        others = git.git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", ".", _NO_DOCUMENTS, env=own)
        new = [name for name in others.split("\0") if name.endswith(_CODE)]
        if new:
            git.git(root, "update-index", "--add", "-z", "--stdin", env=own,
                    data=("\0".join(new) + "\0").encode(errors="surrogateescape"))
        diff = git.git(root, "diff", "--cached", "--binary", "HEAD", "--", ".", ":(exclude)dvc.lock", env=own)
        if not commit_changes:
            return CodeState(head, diff)
        tree = git.git(root, "write-tree", env=own)
    if tree == git.git(root, "rev-parse", "HEAD^{tree}"):
        return CodeState(head, diff)
    commit = git.git(root, "commit-tree", tree, "-p", head, "-m", "fewstep: uncommitted changes of a run", env=git.NOBODY)
    return CodeState(commit, diff)


def keep_commit(workspace: Workspace, code: str) -> None:
    """Remember which commit holds the code of this digest, and keep the commit from git's garbage collection.

    Called when a stage begins, so that the code that made its output can be run again (tasks.engine.accept). Does
    nothing outside git.
    """
    path = workspace.shared / "code" / f"{code}.json"
    if path.exists():
        return
    commit = code_state(workspace, commit_changes=True).commit
    if commit is not None:
        git.git(workspace.root, "update-ref", f"refs/fewstep/code/{code[:16]}", commit)
        atomic_write(path, json.dumps({"code": code, "commit": commit}))


def commit_of(workspace: Workspace, code: str) -> str | None:
    """The commit that holds the code of this digest; None where it is not known here."""
    try:
        return json.loads((workspace.shared / "code" / f"{code}.json").read_bytes())["commit"]
    except (OSError, ValueError, KeyError):
        return None
