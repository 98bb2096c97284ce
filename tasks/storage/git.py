"""git by its plumbing commands: state of the checkout, and commits that touch neither the user's index nor branches.

GitPython would run these very commands, and cannot make such commits without them."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from fewstep.util.errors import FewstepError, NotAvailable, SettingsError
from tasks.storage.workspace import Workspace

IDENTITY = {"GIT_AUTHOR_NAME": "fewstep", "GIT_AUTHOR_EMAIL": "fewstep@localhost",
            "GIT_COMMITTER_NAME": "fewstep", "GIT_COMMITTER_EMAIL": "fewstep@localhost"}
"""Environment of commits that fewstep makes: they need no user name to be configured."""

NO_CONFIGURATION = ("--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null",
                    "-c", "core.quotePath=true", "-c", "gc.auto=0", "-c", "maintenance.auto=false",
                    "-c", "submodule.recurse=false", "-c", "tag.gpgSign=false", "-c", "commit.gpgSign=false")
"""Options of every call: what the user configured for working with git decides nothing here, and starts no program."""


def git(root: Path, *arguments: str, data: bytes | None = None, env: dict[str, str] | None = None,
        check: bool = True) -> str:
    """Run `git` with these arguments in `root`.

    Args:
        data: standard input.
        env: variables added to the environment.
        check: raise if git fails; else a failure gives "", save where git refuses the repository, such as one that
            belongs to another user: that is not the same as no repository.

    Returns:
        Standard output without the last line break.

    Raises:
        FewstepError: git is not installed, or failed; the message holds its error output.
    """
    try:
        done = subprocess.run(["git", "-C", str(root), *NO_CONFIGURATION, *arguments], input=data, capture_output=True,
                              env={**_environment(), **(env or {})})
    except FileNotFoundError:
        raise FewstepError("git is not installed", hint="install git: DVC and lineage need it") from None
    _refused(root, done)
    if done.returncode and check:
        raise FewstepError(f"git {arguments[0]}: {' '.join(done.stderr.decode(errors='replace').split())}")
    return done.stdout.decode(errors="surrogateescape").removesuffix("\n") if not done.returncode else ""


def _refused(root: Path, done: subprocess.CompletedProcess[bytes]) -> None:
    """Raises FewstepError where there is a repository and git will not read it, or cannot.

    git's exit code is 128 for that and for much else, so it is asked once more, for no more than the commit.
    """
    if done.returncode != 128 or not (top(root) / ".git").exists() or _reads(root):
        return
    if _reads(root, "-c", "safe.directory=*"):
        raise FewstepError(f"git refuses the repository of {root}: it belongs to another user",
                           hint=f"git config --global --add safe.directory {_quoted(top(root))}")
    said = " ".join(done.stderr.decode(errors="replace").split())
    raise FewstepError(f"git cannot read the repository of {root}: {said}")


def _reads(root: Path, *options: str) -> bool:
    """Whether git can read the repository at `root` and its commit, if there is one."""
    ask = ["git", "-C", str(root), *NO_CONFIGURATION, *options, "rev-parse", "--verify", "--quiet", "HEAD^{tree}"]
    return subprocess.run(ask, capture_output=True, env=_environment()).returncode in (0, 1)


def top(root: Path) -> Path:
    """The nearest folder at or above `root` with a .git; `root` itself without one. Asks no git."""
    return next((folder for folder in (root, *root.parents) if (folder / ".git").exists()), root)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _environment() -> dict[str, str]:
    """The environment without the variables by which git's hooks point at another repository or index."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith("GIT_")}, "LC_ALL": "C"}


def head(root: Path) -> str | None:
    """The commit that is checked out; None outside git or before the first one.

    Whether files differ from it is asked of tasks.storage.code_state: `git status` believes the user's index, which may
    have been told to (`--assume-unchanged`).
    """
    return git(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}", check=False) or None


def worktrees(workspace: Workspace) -> list[Path]:
    """The folders that correspond to `workspace` in all existing worktrees of its repository; itself outside git."""
    top = git(workspace.root, "rev-parse", "--show-toplevel", check=False)
    if not top:
        return [workspace.root]
    inside = workspace.root.relative_to(Path(top).resolve())
    lines = git(workspace.root, "worktree", "list", "--porcelain").split("\n")    # no other break ends a line of git's
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
    parent = head(root)
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
    stamps = {"GIT_AUTHOR_DATE": (date := committed_at(root, parent)), "GIT_COMMITTER_DATE": date}
    commit = git(root, "commit-tree", tree, "-p", parent, "-m", f"Snapshot {name}", env={**IDENTITY, **stamps})
    git(root, "update-ref", f"refs/tags/{name}", commit, "0" * 40)
    return commit


def committed_at(root: Path, commit: str) -> str:
    """When the commit was made, as git's raw date; read from the commit itself, to which `git log` adds a signature."""
    header = git(root, "cat-file", "commit", commit).partition("\n\n")[0]
    line = next(line for line in header.split("\n") if line.startswith("committer "))
    return " ".join(line.rsplit(" ", 2)[1:])


def read_at(workspace: Workspace, revision: str, path: str) -> bytes:
    """A file of the workspace at a commit or tag. Raises NotAvailable if there is no such revision or file here."""
    prefix = git(workspace.root, "rev-parse", "--show-prefix", check=False)
    done = subprocess.run(["git", "-C", str(workspace.root), *NO_CONFIGURATION, "cat-file", "blob",
                           f"{revision}:{prefix}{path}"], capture_output=True, env=_environment())  # fmt: skip
    _refused(workspace.root, done)
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


def knows(root: Path, commit: str) -> bool:
    """Whether the repository holds the commit."""
    return git(root, "cat-file", "-t", f"{commit}^{{commit}}", check=False) == "commit"


def references(root: Path, pattern: str) -> list[str]:
    """Full names of all references that match git's `pattern`, such as refs/tags/*."""
    return git(root, "for-each-ref", "--format=%(refname)", pattern.removesuffix("*")).split()


def remotes_with(root: Path, commit: str) -> list[str]:
    """Names of the remotes that were seen to hold the commit when they were asked last, `origin` first."""
    branches = git(root, "for-each-ref", "--contains", commit, "--format=%(refname:lstrip=2)", "refs/remotes").split()
    names = [name for name in git(root, "remote").split() if any(item.startswith(f"{name}/") for item in branches)]
    return sorted(names, key=lambda name: (name != "origin", name))


def bundle(root: Path, reference: str, path: Path) -> bool:
    """Write what leads to `reference` and no remote has into the file `path`; False where that is nothing."""
    if not git(root, "rev-list", "-1", reference, "--not", "--remotes"):
        return False
    git(root, "bundle", "create", "--quiet", str(path), reference, "--not", "--remotes")
    return True


def unbundle(root: Path, reference: str, path: Path) -> None:
    """Bring the commits of a bundle, and its `reference`, into the repository. Raises FewstepError where it lacks
    those that the bundle begins with."""
    git(root, "fetch", "--quiet", str(path), f"+{reference}:{reference}")
