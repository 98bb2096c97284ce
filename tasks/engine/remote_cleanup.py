"""What may go from the store that hosts share: outputs that were announced there, and work, which nobody needs."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fewstep.util.errors import NotAvailable, SettingsError
from tasks.storage import published_outputs, remote_outputs
from tasks.storage.dvc.dvc_garbage import collect_remote_garbage, recorded
from tasks.storage.object_store import Store
from tasks.storage.published_outputs import PublishedOutput
from tasks.storage.sharing import lease
from tasks.storage.sharing.collection import collecting
from tasks.storage.sharing.host import host_name, owner
from tasks.storage.sharing.lease import Holder
from tasks.storage.sharing.shared_store import shared_store
from tasks.storage.workspace import Workspace
from tasks.tracking.all_runs import AllRuns
from tasks.tracking.run_record import UNFINISHED

_KEYS, _AT_ONCE = "keys/", 16
_DOOMED = "doomed"      # in the collectors' lease: outputs that are no longer announced, and may not be deleted yet


@dataclass(frozen=True)
class Needed:
    """What must stay: outputs by their keys or by the digests of their manifests."""

    keys: frozenset[str]
    digests: frozenset[str]

    def holds(self, name: str, output: PublishedOutput) -> bool:
        return not {name, output.key}.isdisjoint(self.keys) or output.digest in self.digests


def collect(workspace: Workspace, registered: Needed, newest: int | None, *, dry: bool = False) -> dict:
    """Delete from the shared store the outputs, and the unfinished work, that no host needs.

    Kept is what any registered version came from (`registered`), what the runs of all hosts made or used (of the
    `newest` ones and of those that are unfinished, where that is given), what any host holds a lease of, and what a
    checkout, git tag or branch of this repository uses.

    Returns {removed, bytes, kept, forgotten, work}: files of DVC (to be) removed and their size; outputs kept and
    forgotten; files of unfinished work removed.

    Raises:
        SettingsError: there is no store that hosts share.
        NotAvailable: it does not answer, or cannot say what the runs of other hosts need. Nothing is deleted.
        Busy: another host is at it.
    """
    store = shared_store(workspace)
    if store is None:
        raise SettingsError("DVC's default remote is no object store, so there is nothing that hosts share",
                            hint="`fewstep gc` alone cleans this machine's cache")
    with collecting(store, Holder(owner=owner(workspace), host=host_name(), pid=os.getpid())) as keeper:
        used, unfinished = _keys_of_runs(workspace, newest)
        held = _held(store)
        needed = Needed(registered.keys | used | held, registered.digests)
        outputs = remote_outputs.announced(store)
        needed_md5s = recorded(workspace)
        needed_md5s |= {output.md5 for name, output in outputs.items() if needed.holds(name, output)}
        needed_md5s |= {output.md5 for key in needed.keys if (output := published_outputs.read(workspace, key))}
        doomed = {name: output.md5 for name, output in outputs.items() if output.md5 not in needed_md5s}
        md5s = ({*doomed.values()} | {*keeper.lease.file.content.get(_DOOMED, ())}) - needed_md5s
        work = [name for name in store.names("work/") if name.split("/")[1] not in unfinished | held]
        if not dry:
            keeper.lease.renew(**{_DOOMED: sorted(md5s)})       # who dies here leaves them to the next collector
            remote_outputs.withdraw(store, doomed)      # from here on who wants them makes them anew
            store.delete(work)
        files = collect_remote_garbage(workspace, md5s, needed_md5s, dry=dry)
        if not dry:
            keeper.say(**{_DOOMED: None}, at_once=False)
    return {**files, "kept": len(outputs) - len(doomed), "forgotten": len(doomed), "work": len(work)}


def _keys_of_runs(workspace: Workspace, newest: int | None) -> tuple[frozenset[str], frozenset[str]]:
    """Keys that runs of all hosts made or used, of those that are kept; keys of those that are unfinished."""
    runs = AllRuns(workspace)
    known = runs.all()
    if runs.problem is not None:
        raise NotAvailable(f"what the runs of other hosts need could not be learnt: {runs.problem}")
    open_ones = [run for run in known if run.alive or run.state in UNFINISHED]
    kept = known if newest is None else [*known[:newest], *open_ones]
    return tuple(frozenset(stage.key for run in some for stage in run.record.stages.values() if stage.key)
                 for some in (kept, open_ones))


def _held(store: Store) -> frozenset[str]:
    """Keys of which some host holds a lease."""
    names = lease.names(store, _KEYS)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = zip(names, pool.map(lambda name: lease.look(store, name), names), strict=True)
        return frozenset(name.removeprefix(_KEYS) for name, standing in found if standing is not None and standing.live)
