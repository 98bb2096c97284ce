"""git by its plumbing: state of the checkout, snapshots that need no user identity and touch no index of yours."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from fewstep.util.errors import FewstepError, NotAvailable, SettingsError
from tasks.storage.workspace import Workspace

NOBODY = {"GIT_AUTHOR_NAME": "fewstep", "GIT_AUTHOR_EMAIL": "fewstep@localhost",
           "GIT_COMMITTER_NAME": "fewstep", "GIT_COMMITTER_EMAIL": "fewstep@localhost"}


def git(root: Path, *arguments: str, data: bytes | None = None, env: dict[str, str] | None = None,
        check: bool = True) -> str:
    """Output of a git command in `root`, without the trailing newline. Raises FewstepError with git's own words."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], input=data, capture_output=True,
                              env={**_environment(), **(env or {})})
    except FileNotFoundError:
        raise FewstepError("git is not installed", hint="install git: DVC and lineage need it") from None
    if done.returncode and check:
        raise FewstepError(f"git {arguments[0]}: {' '.join(done.stderr.decode(errors='replace').split())}")
    return done.stdout.decode(errors="surrogateescape").removesuffix("\n") if not done.returncode else ""


def _environment() -> dict[str, str]:
    """Ours without the variables that would point git at another repository or index (set inside hooks)."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith("GIT_")}, "LC_ALL": "C"}


def head(root: Path) -> tuple[str | None, bool]:
    """The commit that is checked out (None outside git or before the first one), and whether tracked files differ."""
    commit = git(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}", check=False) or None
    return commit, bool(commit and git(root, "status", "--porcelain", "--untracked-files=no"))


def worktrees(workspace: Workspace) -> list[Path]:
    """The matching folders of all worktrees of this repository that are still there."""
    top = git(workspace.root, "rev-parse", "--show-toplevel", check=False)
    if not top:
        return [workspace.root]
    inside = workspace.root.relative_to(Path(top).resolve())
    lines = git(workspace.root, "worktree", "list", "--porcelain").splitlines()
    found = [Path(line.removeprefix("worktree ")) / inside for line in lines if line.startswith("worktree ")]
    return [path for path in found if path.is_dir()]


SNAPSHOT = ("params.yaml", "dvc.lock")
"""What tells a checkout which settings and data are its own: the files that are kept of a version."""


def tag_snapshot(root: Path, name: str, files: dict[str, Path | bytes | str]) -> str:
    """Tag `name` with a commit that is HEAD plus `files` (path below `root` → content or a file holding it).

    A child of HEAD made by plumbing: no index, working tree or branch is touched and no identity is needed. Calling it
    again with the same content is harmless; another content under an existing name raises FewstepError. Returns the
    commit's hash. Raises NotAvailable outside git or before the first commit.
    """
    parent, _ = head(root)
    if parent is None:
        raise NotAvailable(f"{root} is not in a git repository with a commit: no snapshot can be tagged",
                           hint="`git init && git add -A && git commit -m start`")
    prefix = git(root, "rev-parse", "--show-prefix")
    with tempfile.TemporaryDirectory() as folder:
        env = {"GIT_INDEX_FILE": os.path.join(folder, "index")}
        git(root, "read-tree", parent, env=env)
        for path, content in sorted(files.items()):
            data = content.read_bytes() if isinstance(content, Path) else content
            data = data.encode() if isinstance(data, str) else data
            blob = git(root, "hash-object", "-w", "--stdin", data=data)
            git(root, "update-index", "--add", "--cacheinfo", f"100644,{blob},{prefix}{path}", env=env)
        tree = git(root, "write-tree", env=env)
    known = git(root, "rev-parse", "--verify", "--quiet", f"refs/tags/{name}^{{tree}}", check=False)
    if known:
        if known != tree:
            raise FewstepError(f"the git tag {name} exists and holds something else",
                               hint=f"if nobody needs it: git tag --delete {name}")
        return git(root, "rev-parse", f"refs/tags/{name}^{{commit}}")
    date = git(root, "show", "--no-patch", "--format=%cd", "--date=raw", parent)
    stamps = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
    commit = git(root, "commit-tree", tree, "-p", parent, "-m", f"Snapshot {name}", env={**NOBODY, **stamps})
    git(root, "update-ref", f"refs/tags/{name}", commit, "0" * 40)
    return commit


def read_at(workspace: Workspace, revision: str, path: str) -> bytes:
    """A file of the workspace as it was at a commit or tag. Raises NotAvailable when either is unknown here."""
    prefix = git(workspace.root, "rev-parse", "--show-prefix", check=False)
    done = subprocess.run(["git", "-C", str(workspace.root), "show", f"{revision}:{prefix}{path}"], capture_output=True,
                          env=_environment())
    if done.returncode:
        raise NotAvailable(f"git has no {path} at {revision} here", hint="`git fetch --tags` brings what others tagged")
    return done.stdout


def add_worktree(workspace: Workspace, target: Path, revision: str = "HEAD") -> Workspace:
    """A detached worktree of `revision` at `target`, which must not exist or be empty; returns its workspace."""
    target = Path(target).absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SettingsError(f"{target} exists and is not empty", hint="give a new folder")
    prefix = git(workspace.root, "rev-parse", "--show-prefix")
    git(workspace.root, "worktree", "add", "--quiet", "--detach", str(target), revision)
    return Workspace((target / prefix).resolve())
