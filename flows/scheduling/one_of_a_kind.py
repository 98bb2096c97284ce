"""Of several triggers with the same code and settings, on whatever host, one makes the run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fewstep.util.errors import Busy
from fewstep.util.hashing import sha256_json
from tasks.config.schema import Settings
from tasks.storage import worktrees
from tasks.storage.code_state import code_tree, sources
from tasks.storage.locks import held
from tasks.storage.sharing.host import host_name, owner
from tasks.storage.sharing.lease import Holder
from tasks.storage.sharing.lease_keeper import leased
from tasks.storage.sharing.shared_store import shared_store
from tasks.storage.workspace import Workspace
from tasks.tracking.all_runs import AllRuns
from tasks.tracking.run_record import settings_digest

_LOOK = 2.0     # seconds between two looks at a lease that will lapse


class AlreadyRunning(Busy):
    """Another process makes this very run."""


@contextmanager
def one_of_a_kind(workspace: Workspace, settings: Settings, *, trigger: str, ours: str | None) -> Iterator[None]:
    """Be the only one that makes an isolated run of this code with these settings, for the duration of the block.

    Args:
        workspace: the checkout.
        settings: of the run.
        trigger: id of the flow run. One of this id that has them is a dead predecessor of this process: its leases are
            waited for until they lapse.
        ours: the run that the predecessor began.

    Raises:
        AlreadyRunning: another process makes it, wherever.
    """
    digest = settings_digest(settings.model_dump(mode="json"))
    made_of = sources(workspace, commit_changes=True)
    commit, code = made_of.workspace.commit, made_of.origin
    tree = str(worktrees.tree_of(workspace, commit))
    if code is not None:
        tree = sha256_json([tree, code_tree(workspace, code.commit) if code.commit else None])
    name = f"triggers/{digest[:16]}-{tree[:16]}"
    busy = AlreadyRunning("already running: another trigger makes the run with these settings and this code")
    me = Holder(owner=owner(workspace), host=host_name(), pid=os.getpid(), run=trigger)
    with held(workspace.shared / name, lambda holder: busy), \
            leased(shared_store(workspace), name, me, busy, is_dead=lambda holder: holder.run == trigger):
        while (twin := AllRuns(workspace).newest_isolated(digest)) is not None and twin.alive \
                and worktrees.same_sources(workspace, twin.record.commit, twin.record.code, commit, code):
            if twin.record.id != ours:
                raise AlreadyRunning(f"already running: run {twin.record.id} on {twin.host}")
            time.sleep(_LOOK)
        yield
