"""The object store that the hosts of a project share: the one behind DVC's default remote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.storage.dvc.dvc_config import default_remote
from tasks.storage.workspace import Workspace

if TYPE_CHECKING:
    from tasks.storage.object_store import Store

FOLDER = "fewstep"
"""Below the remote's address, beside DVC's own files: all that fewstep keeps there."""
ATTEMPTS = 2    # what is asked here only saves work: a store that does not answer must not hold a stage up for long


def is_shared(workspace: Workspace) -> bool:
    """Whether there is such a store. Loads no client."""
    remote = default_remote(workspace)
    return remote is not None and remote.url.startswith("s3://")


def remote_store(workspace: Workspace) -> Store | None:
    """The object store of DVC's default remote; None where that is a folder or there is none."""
    return _store(workspace, "")


def shared_store(workspace: Workspace) -> Store | None:
    """The same for what lies below `FOLDER`."""
    return _store(workspace, f"/{FOLDER}")


def _store(workspace: Workspace, below: str) -> Store | None:
    remote = default_remote(workspace)
    if remote is None or not remote.url.startswith("s3://"):
        return None
    from tasks.storage.object_store import Store  # boto3

    return Store(remote.url.rstrip("/") + below, remote.endpoint, ATTEMPTS)
