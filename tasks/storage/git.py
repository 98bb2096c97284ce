"""git by its plumbing commands: state of the checkout, and commits that touch neither the user's index nor branches.

GitPython would run these very commands, and cannot make such commits without them."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from fewstep.util.errors import FewstepError, NotAvailable, SettingsError
from tasks.storage.workspace import Workspace

IDENTITY = {"GIT_AUTHOR_NAME": "fewstep", "GIT_AUTHOR_EMAIL": "fewstep@localhost",
            "GIT_COMMITTER_NAME": "fewstep", "GIT_COMMITTER_EMAIL": "fewstep@localhost"}
"""Environment of commits that fewstep makes: they need no user name to be configured."""


def git(root: Path, *arguments: str, data: bytes | None = None, env: dict[str, str] | None = None,
        check: bool = True) -> str:
    """Run `git` with these arguments in `root`.

    Args:
        data: standard input.
        env: variables added to the environment.
        check: raise if git fails; else a failure gives "".

    Returns:
        Standard output without the last line break.

    Raises:
        FewstepError: git is not installed, or failed; the message holds its error output.
    """
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], input=data, capture_output=True,
                              env={**_environment(), **(env or {})})
    except FileNotFoundError:
        raise FewstepError("git is not installed", hint="install git: DVC and lineage need it") from None
    if done.returncode and check:
        raise FewstepError(f"git {arguments[0]}: {' '.join(done.stderr.decode(errors='replace').split())}")
    return done.stdout.decode(errors="surrogateescape").removesuffix("\n") if not done.returncode else ""


def _environment() -> dict[str, str]:
    """The environment without the variables by which git's hooks point at another repository or index."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith("GIT_")}, "LC_ALL": "C"}


def head(root: Path) -> tuple[str | None, bool]:
    """The commit that is checked out (None outside git or before the first one), and whether tracked files differ."""
    commit = git(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}", check=False) or None
    return commit, bool(commit and git(root, "status", "--porcelain", "--untracked-files=no"))


def worktrees(workspace: Workspace) -> list[Path]:
    """The folders that correspond to `workspace` in all existing worktrees of its repository; itself outside git."""
    top = git(workspace.root, "rev-parse", "--show-toplevel", check=False)
    if not top:
        return [workspace.root]
    inside = workspace.root.relative_to(Path(top).resolve())
    lines = git(workspace.root, "worktree", "list", "--porcelain").splitlines()
    found = [Path(line.removeprefix("worktree ")) / inside for line in lines if line.startswith("worktree ")]
    return [path for path in found if path.is_dir()]


SNAPSHOT = ("params.yaml", "dvc.lock")
"""The files that are kept with every registered version: they tell which settings and data it was made of."""


def tag_snapshot(root: Path, name: str, files: dict[str, Path | bytes | str]) -> str:
    """Tag a commit that is HEAD plus `files`. Index, working tree and branches stay as they are.

    Args:
        root: folder in the repository.
        name: of the tag. Tagging the same content again changes nothing.
        files: path below `root` → content, or a file that holds it.

    Returns:
        The commit's hash.

    Raises:
        NotAvailable: outside git, or before the first commit.
        FewstepError: the tag exists and holds something else.
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
    commit = git(root, "commit-tree", tree, "-p", parent, "-m", f"Snapshot {name}", env={**IDENTITY, **stamps})
    git(root, "update-ref", f"refs/tags/{name}", commit, "0" * 40)
    return commit


def read_at(workspace: Workspace, revision: str, path: str) -> bytes:
    """A file of the workspace at a commit or tag. Raises NotAvailable if there is no such revision or file here."""
    prefix = git(workspace.root, "rev-parse", "--show-prefix", check=False)
    done = subprocess.run(["git", "-C", str(workspace.root), "show", f"{revision}:{prefix}{path}"], capture_output=True,
                          env=_environment())
    if done.returncode:
        raise NotAvailable(f"git has no {path} at {revision} here", hint="`git fetch --tags` brings what others tagged")
    return done.stdout


def add_worktree(workspace: Workspace, target: Path, revision: str = "HEAD") -> Workspace:
    """Make a detached worktree of `revision` at `target`; returns its workspace.

    Raises SettingsError if `target` exists and is not an empty folder.
    """
    target = Path(target).absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SettingsError(f"{target} exists and is not empty", hint="give a new folder")
    prefix = git(workspace.root, "rev-parse", "--show-prefix")
    git(workspace.root, "worktree", "add", "--quiet", "--detach", str(target), revision)
    return Workspace((target / prefix).resolve())
