"""Workspaces of isolated and scheduled runs: git worktrees of a recorded commit, below .fewstep/worktrees. Code that
lies apart has a worktree too, below .fewstep/sources.

Uncommitted changes become a commit that no branch points at; the reference refs/fewstep/runs/<run> keeps it from git's
garbage collection. The user's files, index, branches and stash stay as they are.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tasks.storage import git
from tasks.storage.code_state import CodeOrigin, code_tree
from tasks.storage.dvc import dvc_repo
from tasks.storage.workspace import Workspace


def same_sources(workspace: Workspace, commit: str | None, code: CodeOrigin | None, other: str | None,
                 other_code: CodeOrigin | None) -> bool:  # fmt: skip
    """Whether two pairs of a workspace's commit and that of its code, where this lies apart, hold the same files."""
    if not same_code(workspace, commit, other):
        return False
    if code is None or other_code is None or code.commit == other_code.commit:
        return (code is None) == (other_code is None)
    trees = [code_tree(workspace, one.commit) if one.commit else None for one in (code, other_code)]
    return trees[0] is not None and trees[0] == trees[1]


def same_code(workspace: Workspace, commit: str | None, other: str | None) -> bool:
    """Whether two commits hold the same files; False if either is None or unknown here."""
    tree = tree_of(workspace, commit)
    return tree is not None and tree == tree_of(workspace, other)


def tree_of(workspace: Workspace, commit: str | None) -> str | None:
    """The hash of the files in a commit; None without one, or where it is unknown here."""
    if not commit:
        return None
    return git.git(workspace.root, "rev-parse", "--verify", "--quiet", f"{commit}^{{tree}}", check=False) or None


def is_tracked(workspace: Workspace, path: Path) -> bool:
    """Whether git tracks the file `path`, or a file in the folder `path`."""
    return bool(git.git(workspace.root, "ls-files", "--", str(path), check=False))


def folder(workspace: Workspace, run: str) -> Path:
    """Where the worktree of `run` lies."""
    return workspace.shared / "worktrees" / run


def reference(run: str) -> str:
    """The git reference that keeps the commit of `run`."""
    return f"refs/fewstep/runs/{run}"


def source_folder(workspace: Workspace, run: str) -> Path:
    """Where the worktree of the code of `run` lies, if the code lies apart."""
    return workspace.shared / "sources" / run


def add(workspace: Workspace, run: str, commit: str, code: CodeOrigin | None = None) -> Workspace:
    """The worktree of `run`, over the shared DVC cache; made of `commit` unless an earlier attempt has made it.

    `code`: of code that lies apart, of whose commit the worktree's code is; outside git it is used where it lies.
    """
    path = folder(workspace, run)
    ready = path.with_name(run + ".ready")      # written last: a kill leaves no half checkout that counts
    prefix = git.git(workspace.root, "rev-parse", "--show-prefix")
    if not ready.exists():
        remove(workspace, run)
        git.git(workspace.root, "update-ref", reference(run), commit)
        git.add_worktree(workspace, path, commit)
        made = Workspace((path / prefix).resolve())
        dvc_repo.share_cache(Workspace(workspace.shared.parent), made)
        if code is not None:
            if code.commit:
                git.git(workspace.code, "update-ref", reference(run), code.commit)
            made.use_code(add_source(workspace, source_folder(workspace, run), code.commit))
        ready.touch()
    return Workspace((path / prefix).resolve())


def add_source(workspace: Workspace, path: Path, commit: str) -> Path:
    """Where the code that lies apart is as it was at `commit`: in a git worktree at the new `path`; code outside git,
    whose commit is empty, where it lies."""
    if not commit:
        return workspace.code
    prefix = git.git(workspace.code, "rev-parse", "--show-prefix")
    git.git(workspace.code, "worktree", "add", "--quiet", "--detach", str(path), commit)
    return (path / prefix).resolve()


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
    remove_worktree(workspace.root, path)
    if source_folder(workspace, run).exists():
        remove_worktree(workspace.code, source_folder(workspace, run))


def remove_worktree(root: Path, path: Path) -> None:
    """Delete the git worktree `path` of the repository at `root`, whatever is left of it."""
    git.git(root, "worktree", "remove", "--force", "--force", str(path), check=False)
    if path.exists():
        shutil.rmtree(path)
    git.git(root, "worktree", "prune", check=False)


def present(workspace: Workspace) -> list[str]:
    """Names of the runs that have a worktree, sorted."""
    base = workspace.shared / "worktrees"
    return sorted(path.name for path in base.iterdir() if path.is_dir()) if base.is_dir() else []
