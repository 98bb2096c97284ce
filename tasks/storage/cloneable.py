"""What another host needs to do the work of this workspace: an address to clone, a commit, the same of code that lies
apart, and a store, none of them a path of this host."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from configobj import ConfigObj

from fewstep.util.errors import NotAvailable, SettingsError
from tasks.storage import git
from tasks.storage.code_state import CommitState, folders_of_code, sources
from tasks.storage.dvc.dvc_config import remote_in
from tasks.storage.workspace import Workspace
from tasks.tracking.redaction import redact

_SSH = re.compile(r"^[^/:]+:(?!//)")    # user@host:path


@dataclass(frozen=True)
class Cloneable:
    """A commit and the address of a repository that holds it; the same of code that lies apart."""

    repository: str
    commit: str
    code: Cloneable | None = None


def cloneable(workspace: Workspace) -> Cloneable:
    """The workspace's commit as any host can have it, and its code's.

    Raises SettingsError, saying what to do, where other hosts would have other code or nothing: uncommitted changes, a
    commit that no remote has, a remote on this disk or with a password in its address, a commit that names no store.
    """
    made_of = sources(workspace)
    found = _pushed(workspace.root, made_of.workspace)
    _require_store(workspace, found.commit)
    if made_of.code is None:
        return found
    return replace(found, code=_pushed(workspace.code, made_of.code))


def cloneable_code(workspace: Workspace) -> Cloneable:
    """The commit of the code alone, wherever it lies: who does units for a run needs none of its settings.

    Raises SettingsError as `cloneable` does.
    """
    return _pushed(workspace.code, folders_of_code(workspace))


def _pushed(root: Path, state: CommitState) -> Cloneable:
    if state.commit is None:
        raise SettingsError(f"{root} is not in a git repository with a commit", hint="workers clone a commit: make one")
    if state.modified:
        raise SettingsError(f"there are uncommitted changes in {root}, and workers elsewhere have what is committed "
                            "alone", hint="`git commit` and `git push` them, or `git stash` them")
    return Cloneable(_address(root, state.commit), state.commit)


def _address(root: Path, commit: str) -> str:
    names = git.remotes_with(root, commit)
    if not names:
        raise SettingsError(f"commit {commit[:10]} is on no remote, and workers elsewhere clone from one",
                            hint="`git push` it")
    url = git.git(root, "remote", "get-url", names[0])
    parts = urlsplit(url)
    if not _SSH.match(url) and parts.scheme in ("", "file"):
        raise SettingsError(f"the remote {names[0]} is {redact(url)}, a path of this host",
                            hint=f"`git remote set-url {names[0]}` an address that workers reach")
    if parts.password or (parts.username and parts.scheme in ("http", "https")):
        raise SettingsError(f"the address of the remote {names[0]} holds a login, which Prefect would store",
                            hint="take it out, and give workers a credential helper or an SSH key")
    return url


def _require_store(workspace: Workspace, commit: str) -> None:
    try:
        config = git.read_at(workspace, commit, ".dvc/config").decode(errors="replace")
    except NotAvailable:
        config = ""
    remote = remote_in(ConfigObj(config.splitlines(), interpolation=False), f".dvc/config at {commit[:10]}")
    if remote is None or "://" not in remote.url:
        said = "no default remote" if remote is None else f"{remote.url}, a path, as default remote"
        raise SettingsError(f"the committed .dvc/config names {said}: workers elsewhere could share nothing",
                            hint="`dvc remote add -d store s3://BUCKET/PATH`, then commit and push")
