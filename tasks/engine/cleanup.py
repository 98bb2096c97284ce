"""What may go: work that nobody will continue, and keys that nobody uses."""

from __future__ import annotations

import contextlib
from pathlib import Path

from fewstep.util.errors import FewstepError
from tasks.config.params_file import load
from tasks.engine import half_made, publish
from tasks.engine.plan import plan
from tasks.storage.workspace import Workspace
from tasks.tracking.run_record import UNFINISHED
from tasks.tracking.run_records import RunStore


def clean(workspace: Workspace, *, everything: bool = False, dry: bool = False) -> list[dict]:
    """Remove work in progress that neither an unfinished run nor params.yaml as it is would continue; the caller locks.

    `everything` removes that too, and what any command makes again: pages of reports and, from the main checkout, what
    was seen in reference images. Half-done swaps are completed first. Returns {what, bytes, stage} of each thing
    (to be) removed; stage: of half-made work, else None.
    """
    if not dry:
        publish.complete(workspace)
    keep = set() if everything else _wanted(workspace)
    removed = []
    again = [workspace.pages, *([workspace.reference] if workspace.is_main else [])] if everything else []
    for path in [*publish.leftovers(workspace, keep), *filter(Path.exists, again)]:
        removed.append({"what": path.relative_to(workspace.root).as_posix(), "bytes": half_made.size(path),
                        "stage": half_made.stage_of(path)})
        if not dry:
            publish.discard(path, publish.trash(workspace))
    return removed


def _wanted(workspace: Workspace) -> set[str]:
    store = RunStore(workspace)
    wanted = {stage.key for record in store.all() if store.state(record) in UNFINISHED
              for stage in record.stages.values() if stage.key}
    with contextlib.suppress(FewstepError):     # a params.yaml that does not hold wants nothing
        wanted |= {item.key for item in plan(workspace, load(workspace.params)) if item.key}
    return wanted


def used_keys(workspace: Workspace, newest: int | None = None) -> set[str]:
    """Keys of the outputs that runs made or used: of all runs, or of the `newest` ones and those still unfinished."""
    store = RunStore(workspace)
    records = store.all()
    kept = records if newest is None else records[:newest] + [
        record for record in records[newest:] if store.state(record) in UNFINISHED]
    return {stage.key for record in kept for stage in record.stages.values() if stage.key}

