"""Who this is among the hosts of a project: one repository on one machine, within which file locks tell who lives."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

from fewstep.util.files import temporary_for
from tasks.storage.workspace import Workspace

NAME = "FEWSTEP_HOST"
"""Environment variable: another name for this machine than its own, such as that of a pod's node."""


def host_name() -> str:
    """The machine's name, for people."""
    return os.environ.get(NAME) or os.uname().nodename


def owner(workspace: Workspace) -> str:
    """Names this repository on this machine: `gpu1-5f0c2a91`. All worktrees share it; a clone or copy has another.

    What has this owner, and whose file lock nobody holds, is left over from a dead process: of another owner nothing
    can be told from here.
    """
    path = workspace.shared / "host-id"
    if not path.exists():
        _make(path)
    facts = f"{path.read_text()} {path.stat().st_ino} {path.resolve()} {host_name()}"
    return f"{host_name()}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_for(path)
    temporary.write_text(secrets.token_hex(16))
    with contextlib.suppress(FileExistsError):  # of several processes at once the first
        os.link(temporary, path)
    temporary.unlink()
