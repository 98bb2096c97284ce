"""The settings a run is made of, and the record of a new one: everything before it begins to work."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fewstep.util.config import parse
from fewstep.util.files import mode_of, write_atomically
from tasks.config import params_file
from tasks.config.schema import Settings
from tasks.engine.plan import changes
from tasks.storage.code_state import Sources, sources
from tasks.storage.workspace import Workspace
from tasks.tracking.all_runs import AllRuns
from tasks.tracking.run_record import RunRecord, settings_digest
from tasks.tracking.run_records import RunStore


def preview(workspace: Workspace, sets: list[str], params: Path | None) -> tuple[Settings, str]:
    """What params.yaml would be after `--params` and `--set`: settings and text. Writes nothing to the checkout."""
    source = Path(params) if params else workspace.params
    params_file.read(source)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / source.name
        copy.write_bytes(source.read_bytes())
        settings = params_file.write_overrides(copy, sets, root=workspace.root)
        return settings, copy.read_text()


def settings_of(record: RunRecord) -> Settings:
    """The settings frozen in a record. Raises SettingsError where this version no longer understands them."""
    return parse(Settings, record.settings, f"run {record.id}")


def differences(record: RunRecord, settings: Settings) -> list[str]:
    """Keys whose values in `settings` are not those of the run, as `distill.images: 200000 → 1000`."""
    return [f"{name}: {old} → {new}" for name, old, new in changes(record.settings, settings.model_dump(mode="json"))]


def unfinished_here(workspace: Workspace, settings: Settings) -> RunRecord | None:
    """The run with these settings in this checkout that was left unfinished, if it is the newest with them."""
    digest = settings_digest(settings.model_dump(mode="json"))
    runs = AllRuns(workspace)
    known = runs.newest_in(str(workspace.root), digest)
    return runs.adopt(known) if known is not None and known.can_be_continued else None


def new_here(workspace: Workspace, settings: Settings, run: str) -> RunRecord:
    """A record for a new run in this workspace, with the commits and the uncommitted changes it is made of."""
    store, made_of = RunStore(workspace), sources(workspace)
    record = store.new(settings.model_dump(mode="json"), run=run, commit=made_of.workspace.commit,
                       modified=made_of.workspace.modified, code=made_of.origin)
    params = workspace.params
    write_atomically(store.folder_of(run) / params.name, params.read_bytes(), mode=mode_of(params))
    keep_changes(store, record, made_of)
    return record


def keep_changes(store: RunStore, record: RunRecord, made_of: Sources) -> None:
    """Stores the uncommitted changes that a run was started with, as patches beside its record."""
    diffs = {"changes.diff": made_of.workspace.diff, "code-changes.diff": made_of.code.diff if made_of.code else ""}
    for name, diff in diffs.items():
        if diff:
            (store.folder_of(record.id) / name).write_bytes((diff + "\n").encode(errors="surrogateescape"))
