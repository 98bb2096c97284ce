"""What a run is made of, as git commits: HEAD, or a commit on no branch with the uncommitted changes; of the workspace
and, where that lies apart, of the code."""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fewstep.util.config import Strict
from fewstep.util.files import write_atomically
from fewstep.util.plain_data import NotPlain, from_json
from tasks.storage import git
from tasks.storage.workspace import CODE, Workspace

_CODE = (".py", ".yaml", ".yml", ".toml", ".dvc", ".lock")
_ALL = (".", ":(exclude)docs")     # tables and pictures that commands write in docs change no run

NO_FILTERS = ("--no-ext-diff", "--no-textconv", "--no-renames", "--no-relative", "--ignore-submodules=none")
PATCH = ("--binary", "--full-index", "--no-color", "--src-prefix=a/", "--dst-prefix=b/", "--unified=3",
         "--inter-hunk-context=0", "--diff-algorithm=myers", "-O/dev/null")  # fmt: skip
"""Of diff-index: the patch is the same whatever the user configured for diffs that people read."""


class CodeOrigin(Strict):
    """Code that lies apart from the workspace, as records keep it: `commit`, empty outside git; `modified`: whether its
    files differed from that commit's, or from its parent's where the changes were committed."""

    commit: str = ""
    modified: bool = False

    def told(self, characters: int = 10) -> str:
        """The commit in words."""
        return self.commit[:characters] + " with changes" * self.modified if self.commit else "outside git"


@dataclass(frozen=True)
class CommitState:
    """What lies in a folder: a commit (None outside git), its difference to HEAD as a patch that `git apply` takes, and
    whether there is one, which is told from the files and not from the patch."""

    commit: str | None
    diff: str = ""
    modified: bool = False


@dataclass(frozen=True)
class Sources:
    """What a run is made of.

    Attributes:
        workspace: settings, recipes and, unless it lies apart, the code.
        code: the code that lies apart; None where the workspace holds it.
    """

    workspace: CommitState
    code: CommitState | None

    @property
    def modified(self) -> bool:
        """Whether anything differs from what is committed."""
        return self.workspace.modified or (self.code is not None and self.code.modified)

    @property
    def origin(self) -> CodeOrigin | None:
        """Of the code that lies apart, what records keep."""
        return None if self.code is None else CodeOrigin(commit=self.code.commit or "", modified=self.code.modified)


def sources(workspace: Workspace, *, commit_changes: bool = False) -> Sources:
    """The state of the workspace and, where that lies apart, of its code. `commit_changes` as of `workspace_state`."""
    return Sources(workspace_state(workspace, commit_changes=commit_changes), None if workspace.holds_code
                   else code_state(workspace, commit_changes=commit_changes))  # fmt: skip


def workspace_state(workspace: Workspace, *, commit_changes: bool = False) -> CommitState:
    """HEAD and the uncommitted changes of tracked files and of new files of code and settings.

    Data does not count, nor does dvc.lock, which every run changes.

    Args:
        commit_changes: commit the changes, as a child of HEAD that is on no branch, and return that commit.
    """
    return _state(workspace.root, _ALL, commit_changes)


def code_state(workspace: Workspace, *, commit_changes: bool = False) -> CommitState:
    """The same for the code, wherever it lies. Of code that lies apart the folders of code count alone: settings beside
    it are of another workspace."""
    if workspace.holds_code:
        return workspace_state(workspace, commit_changes=commit_changes)
    return folders_of_code(workspace, commit_changes=commit_changes)


def folders_of_code(workspace: Workspace, *, commit_changes: bool = False) -> CommitState:
    """The same for the folders of code alone, wherever they lie. Code that git does not track, such as an installed
    package, has no commit."""
    tracked = git.git(workspace.code, "ls-files", "--", *(f"{name}/__init__.py" for name in CODE), check=False)
    if len(tracked.splitlines()) < len(CODE):
        return CommitState(None)
    return _state(workspace.code, CODE, commit_changes)


def code_tree(workspace: Workspace, commit: str) -> tuple[str, ...] | None:
    """git's names of the folders of code at a commit of the code that lies apart; None where it is unknown here."""
    prefix = git.git(workspace.code, "rev-parse", "--show-prefix", check=False)
    names = (f"{commit}:{prefix}{name}" for name in CODE)
    found = tuple(git.git(workspace.code, "rev-parse", "--verify", "--quiet", name, check=False) for name in names)
    return found if all(found) else None


def _state(root: Path, where: tuple[str, ...], commit_changes: bool) -> CommitState:
    head = git.head(root)
    if head is None:
        return CommitState(None)
    with tempfile.TemporaryDirectory() as folder:   # for an index beside the user's
        index = {"GIT_INDEX_FILE": os.path.join(folder, "index")}
        git.git(root, "read-tree", "HEAD", env=index)
        _update(root, where, index)
        others = git.git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *where, env=index)
        new = [name for name in others.split("\0") if name.endswith(_CODE)]
        if new:
            git.git(root, "update-index", "--add", "-z", "--stdin", env=index,
                    data=("\0".join(new) + "\0").encode(errors="surrogateescape"))
        compared = ("HEAD", "--", ".", ":(exclude)dvc.lock")
        modified = bool(git.git(root, "diff-index", "--cached", "--name-only", *NO_FILTERS, *compared, env=index))
        diff = git.git(root, "diff-index", "--cached", "-p", *PATCH, *NO_FILTERS, *compared, env=index)
        if not commit_changes:
            return CommitState(head, diff, modified)
        tree = git.git(root, "write-tree", env=index)
    if tree == git.git(root, "rev-parse", "HEAD^{tree}"):
        return CommitState(head, diff, modified)
    message = "fewstep: uncommitted changes of a run"
    commit = git.git(root, "commit-tree", tree, "-p", head, "-m", message, env=git.IDENTITY)
    return CommitState(commit, diff, modified)


def _update(root: Path, where: tuple[str, ...], index: dict[str, str]) -> None:
    """Bring a fresh index of HEAD to the tracked files as they lie there, those that `where` names to git.

    Of a sparse checkout, files that are left out stay as in HEAD; one that is there all the same counts as it is.
    """
    if git.git(root, "config", "--type=bool", "core.sparseCheckout", check=False) != "true":
        git.git(root, "add", "--update", "--", *where, env=index)
        return
    git.git(root, "add", "--update", "--sparse", "--", *where, env=index)
    entries = (entry.split(" ", 1) for entry in git.git(root, "ls-files", "-t", "-z").split("\0") if entry)
    prefix = git.git(root, "rev-parse", "--show-prefix")    # update-index counts from the top of the repository
    left_out = {prefix + name for tag, name in entries if tag == "S" and not os.path.lexists(root / name)}
    known = git.git(root, "ls-tree", "-r", "-z", "--full-name", "HEAD").split("\0")
    kept = [entry for entry in known if entry.partition("\t")[2] in left_out]
    if kept:
        git.git(root, "update-index", "-z", "--index-info", env=index,
                data=("\0".join(kept) + "\0").encode(errors="surrogateescape"))


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
        git.git(workspace.code, "update-ref", f"refs/fewstep/code/{code[:16]}", commit)
        write_atomically(path, json.dumps({"code": code, "commit": commit}))


def commit_of(workspace: Workspace, code: str) -> str | None:
    """The commit that holds the code of this digest; None where it is not known here."""
    try:
        noted = from_json((workspace.shared / "code" / f"{code}.json").read_bytes())
    except (OSError, NotPlain):
        return None
    commit = noted.get("commit") if isinstance(noted, dict) and noted.get("code") == code else None
    return commit if isinstance(commit, str) and re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", commit) else None
