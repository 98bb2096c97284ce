"""Which Prefect flow runs are being worked on by a process of this machine: one locked file per flow run.

Prefect cannot know: a run whose machine died stays "Running" for ever. The kernel frees the lock when its holder dies.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tasks.storage.locks import held, said_by_holder
from tasks.storage.workspace import Workspace


def _path(workspace: Workspace, flow_run: str) -> Path:
    return workspace.shared / "alive" / flow_run


@contextlib.contextmanager
def working_on(workspace: Workspace, flow_run: str) -> Iterator[None]:
    """Hold the flow run for the duration of the block."""
    with held(_path(workspace, flow_run)):
        try:
            yield
        finally:        # the process goes on and tells Prefect how it ended
            forget(workspace, flow_run)


def forget(workspace: Workspace, flow_run: str) -> None:
    """The flow run's end is known to Prefect."""
    _path(workspace, flow_run).unlink(missing_ok=True)


def known_here(workspace: Workspace, flow_run: str) -> bool:
    """Whether a process of this repository ever worked on it and did not end in order."""
    return _path(workspace, flow_run).exists()


def holds(workspace: Workspace, flow_run: str) -> bool:
    """Whether a process works on it now."""
    return said_by_holder(_path(workspace, flow_run)) is not None
