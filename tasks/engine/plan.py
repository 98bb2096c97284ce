"""What a run would do and why, from manifests and settings alone: under a second, no torch, Prefect, MLflow or DVC."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from fewstep.util.errors import CorruptData, FewstepError
from tasks.config import schema as settings_module
from tasks.config.schema import Settings
from tasks.engine import graph, stage_key
from tasks.engine.manifest import Manifest, load, problems
from tasks.storage import dvc_lockfile
from tasks.storage.file_io import StatTable
from tasks.storage.workspace import Workspace

State = Literal["current", "stale", "restorable", "missing"]


@dataclass(frozen=True)
class PlanItem:
    """One stage: `current` (nothing to do), `restorable` (made before, in the cache), `stale`, `missing` (never made).

    `key` is None while an input has yet to be made. `recorded` says that dvc.lock is known to agree with a current
    stage; `false_record` names what plain `dvc repro` recorded wrongly.
    """

    stage: str
    key: str | None
    state: State
    why: str
    recorded: bool = True
    false_record: str | None = None
    last_seconds: float | None = None

    def to_dict(self) -> dict:
        return asdict(self)


def stat_table(workspace: Workspace) -> StatTable:
    """The table of file hashes that all worktrees share."""
    return StatTable(workspace.shared / "stat.sqlite")


def nothing_to_do(items: list[PlanItem]) -> bool:
    """Whether every stage is current (DVC's record may still have to be brought up to date: runner.settle)."""
    return all(item.state == "current" for item in items)


def plan(workspace: Workspace, settings: Settings, *, table: StatTable | None = None,
         stages: tuple[graph.Stage, ...] | None = None) -> list[PlanItem]:
    """The state of every stage under `settings`. Raises SettingsError when an outside input is missing.

    Stages whose inputs will be made anew have no key yet; they are listed as stale because they follow.
    """
    own = table is None
    table = table or stat_table(workspace)
    try:
        survey = Survey(workspace, settings, table)
        return [survey.look(stage) for stage in (stages or graph.STAGES)]
    finally:
        if own:
            table.close()


class Survey:
    """Looks at the stages in order; remembers the digests that the later ones' keys need."""

    def __init__(self, workspace: Workspace, settings: Settings, table: StatTable):
        self.workspace, self.settings, self.table = workspace, settings, table
        self.digests: dict[str, str | None] = {}
        self.params = settings_module.read(workspace.params)
        self.entries = dvc_lockfile.lock_entries(workspace)

    def look(self, stage: graph.Stage) -> PlanItem:
        """The state of one stage; its inputs must have been looked at before."""
        folder = self.workspace.root / stage.output
        given = stage_key.given_digests(stage, self.settings, self.workspace, self.table)
        resolved = stage_key.resolved(stage, self.settings, self.workspace.root)
        self.digests[stage.name] = None
        waiting = [name for name in stage.inputs if self.digests[name] is None]
        try:
            manifest, damage, false = load(folder), None, None
        except (CorruptData, FewstepError) as error:
            manifest, damage, false = None, str(error), None
        if waiting:
            state = "missing" if manifest is None else "stale"
            return PlanItem(stage.name, None, state, damage or f"follows {' and '.join(waiting)}")
        inputs = {name: self.digests[name] for name in stage.inputs}
        key = stage_key.key(stage, stage_key.this_code(stage.name), resolved, self.settings.seed, inputs, given)
        if manifest is not None and manifest.key == key:
            differing = problems(folder, manifest, self.table)
            absent = stage.present(self.workspace, manifest) if stage.present else None
            if not differing and not absent:
                self.digests[stage.name] = manifest.digest
                return PlanItem(stage.name, key, "current", "up to date", self._recorded(stage, key, given))
            why = absent or differing[0] + (f" (and {len(differing) - 1} more)" if len(differing) > 1 else "")
        elif manifest is not None:
            why = self._difference(stage, manifest, resolved, inputs, given)
            false = self._false_record(stage, why)
        else:
            why = damage or "never made"
        known = restorable(self.workspace, key)
        if known is not None:
            self.digests[stage.name] = known["digest"]
            return PlanItem(stage.name, key, "restorable", why, false_record=false)
        state = "missing" if manifest is None and not damage else "stale"
        return PlanItem(stage.name, key, state, why, false_record=false)

    def _false_record(self, stage: graph.Stage, why: str) -> str | None:
        if stage.in_dvc and dvc_lockfile.claims_current(self.workspace, stage, self.params, self.entries):
            return (f"dvc.lock says that '{stage.name}' is up to date, but its output was made before: {why} "
                    "(edited while `dvc repro` ran)")
        return None

    def _recorded(self, stage: graph.Stage, key: str, given: dict) -> bool:
        if not stage.in_dvc:
            return True
        seen = dvc_lockfile.view(self.workspace, stage, self.params, given)
        return dvc_lockfile.is_recorded(self.workspace, stage, key, seen, self.entries.get(stage.name))

    def _difference(self, stage: graph.Stage, manifest: Manifest, resolved: dict, inputs: dict, given: dict) -> str:
        reasons = [f"{name}: {_short(old)} → {_short(new)}" for name, old, new in changes(manifest.settings, resolved)]
        if manifest.seed != self.settings.seed:
            reasons.append(f"seed: {manifest.seed} → {self.settings.seed}")
        reasons += [f"its input {name} has changed" for name in inputs
                    if manifest.inputs.get(name, {}).get("digest") != inputs[name]]
        reasons += [f"{name} from outside has changed" for name in sorted({*given, *manifest.given})
                    if given.get(name) != manifest.given.get(name)]
        if manifest.code != stage_key.this_code(stage.name):
            reasons.append("its code has changed")
        return ", ".join(reasons[:4]) + (f" (and {len(reasons) - 4} more)" if len(reasons) > 4 else "")


def changes(old: dict, new: dict, prefix: str = "") -> list[tuple[str, object, object]]:
    """Dotted keys whose values differ between two nested mappings, with both values (None where absent)."""
    found = []
    for name in sorted({*old, *new}):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += changes(a, b, f"{prefix}{name}.")
        elif a != b or (name in old) != (name in new):
            found.append((prefix + name, a, b))
    return found


def restorable(workspace: Workspace, key: str) -> dict | None:
    """What is known of an output made before under `key`, when DVC's cache still lists its files; else None."""
    try:
        known = json.loads((workspace.published / f"{key}.json").read_bytes())
        store, name = Path(os.path.normpath(workspace.shared / known["store"])), known["md5"]
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return known if os.path.exists(store / name[:2] / name[2:]) else None


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "…"
