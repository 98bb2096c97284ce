"""What a run would do and why, from manifests and settings alone: under a second, no torch, Prefect, MLflow or DVC."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

from fewstep.util.errors import FewstepError
from fewstep.util.plain_data import NotPlain, from_json
from tasks.config import params_file
from tasks.config.schema import Settings
from tasks.engine import graph, half_made
from tasks.engine.manifest import Manifest, load, problems
from tasks.engine.stage_code import changed_files
from tasks.engine.stage_key import Identity, identify, outside_digests
from tasks.stages.base import Stage
from tasks.storage.dvc import dvc_lockfile, dvc_yaml
from tasks.storage.file_io import StatTable
from tasks.storage.published_outputs import restorable
from tasks.storage.workspace import Workspace

State = Literal["current", "stale", "restorable", "missing"]
REASONS = 4     # listed by name; more are counted


@dataclass(frozen=True)
class PlanItem:
    """The state of one stage.

    Attributes:
        stage: name.
        key: identity of the wanted output; None while an input has yet to be made.
        state: `current` (nothing to do), `restorable` (made before, in the cache), `stale`, `missing` (never made).
        why: what differs, in words.
        recorded: whether dvc.lock is known to agree with a current stage.
        false_record: what plain `dvc repro` recorded wrongly; None if nothing.
        code_files: files whose change makes the output stale; empty where its code is the same.
        only_code: whether nothing but code differs from the output that is there, so that it can be accepted.
        last_seconds: how long it took when it was made last, on whatever machine; None if not known.
    """

    stage: str
    key: str | None
    state: State
    why: str
    recorded: bool = True
    false_record: str | None = None
    code_files: tuple[str, ...] = ()
    only_code: bool = False
    last_seconds: float | None = None

    def to_dict(self) -> dict:
        """As JSON data."""
        return asdict(self)


def stat_table(workspace: Workspace) -> StatTable:
    """The table of file hashes that all worktrees share."""
    return StatTable(workspace.shared / "stat.sqlite")


def nothing_to_do(items: list[PlanItem]) -> bool:
    """Whether every stage is current (DVC's record may still have to be brought up to date: runner.settle)."""
    return all(item.state == "current" for item in items)


def plan(workspace: Workspace, settings: Settings, *, table: StatTable | None = None,
         stages: tuple[Stage, ...] | None = None) -> list[PlanItem]:
    """The state of every stage under `settings`. Raises SettingsError when an outside input is missing.

    Stages whose inputs will be made again have no key yet; they are listed as stale because they follow.
    """
    with contextlib.nullcontext(table) if table else contextlib.closing(stat_table(workspace)) as open_table:
        survey = Survey(workspace, settings, open_table)
        return [survey.look(stage) for stage in (stages or graph.STAGES)]


class Survey:
    """Looks at the stages in order.

    Attributes:
        digests: of the outputs that are current or restorable, which the later stages' keys need.
        identities: what is wanted of each stage whose inputs are known.
    """

    def __init__(self, workspace: Workspace, settings: Settings, table: StatTable):
        self.workspace, self.settings, self.table = workspace, settings, table
        self.digests: dict[str, str | None] = {}
        self.identities: dict[str, Identity] = {}
        self.params = params_file.read(workspace.params)
        self.entries = dvc_lockfile.lock_entries(workspace)
        self.outside = set(dvc_yaml.given(settings, workspace).values())

    def look(self, stage: Stage) -> PlanItem:
        """The state of one stage; its inputs must have been looked at before."""
        folder = self.workspace.root / stage.output
        self.digests[stage.name] = None
        waiting = [name for name in stage.inputs if self.digests[name] is None]
        try:
            manifest, damage = load(folder), None
        except FewstepError as error:
            manifest, damage = None, str(error)
        seconds = last_seconds(self.workspace, stage)
        if waiting:
            outside_digests(stage, self.settings, self.workspace, self.table)   # refused now, not after hours
            state = "missing" if manifest is None else "stale"
            return PlanItem(stage.name, None, state, damage or f"follows {' and '.join(waiting)}", last_seconds=seconds)
        identity = identify(stage, self.settings, self.workspace, self.digests, self.table)
        self.identities[stage.name] = identity
        key = identity.key_of(manifest)
        if key is not None:
            why = _broken(self.workspace, stage, manifest, self.table)
            if why is None:
                self.digests[stage.name] = manifest.digest
                return PlanItem(stage.name, key, "current", "up to date", self._recorded(stage, key, identity))
            differences, code_files = [], []
        else:
            differences, code_files = compare(manifest, identity)
            why = damage or (_listed([*differences, *_code_changed(code_files)]) if manifest else "never made")
        false = self._false_record(stage, why) if manifest is not None and key is None else None
        known = restorable(self.workspace, identity.key)
        if known is not None:
            self.digests[stage.name] = known.digest
            return PlanItem(stage.name, identity.key, "restorable", why, false_record=false)
        why = "; ".join(filter(None, [why, half_made.left_for_its_code(self.workspace, identity)]))
        return PlanItem(stage.name, identity.key, "missing" if manifest is None and not damage else "stale", why,
                        false_record=false, code_files=tuple(code_files), last_seconds=seconds,
                        only_code=bool(code_files) and not differences and stage.in_dvc)

    def _false_record(self, stage: Stage, why: str) -> str | None:
        if stage.in_dvc and dvc_lockfile.claims_current(
                self.workspace, stage, self.params, self.entries, self.outside):
            return (f"dvc.lock says that '{stage.name}' is up to date, but its output was made before: {why} "
                    "(edited while `dvc repro` ran)")
        return None

    def _recorded(self, stage: Stage, key: str, identity: Identity) -> bool:
        if not stage.in_dvc:
            return True
        seen = dvc_lockfile.view(self.workspace, stage, self.params, identity.given, self.table)
        return dvc_lockfile.is_recorded(self.workspace, stage, key, seen, self.entries.get(stage.name))


def _broken(workspace: Workspace, stage: Stage, manifest: Manifest, table: StatTable) -> str | None:
    """Why the output of the right key is not valid as it lies there; None if it is."""
    differing = problems(workspace.root / stage.output, manifest, table)
    if differing:
        return differing[0] + (f" (and {len(differing) - 1} more)" if len(differing) > 1 else "")
    return stage.absent(workspace, manifest)


def compare(manifest: Manifest | None, identity: Identity) -> tuple[list[str], list[str]]:
    """What differs between a recorded output and the wanted one: settings, seed and inputs in words; files of code."""
    if manifest is None:
        return [], []
    reasons = [f"{name}: {_short(old)} → {_short(new)}"
               for name, old, new in changes(manifest.settings, identity.settings)]
    if manifest.seed != identity.seed:
        reasons.append(f"seed: {manifest.seed} → {identity.seed}")
    digests = {name: record.digest for name, record in manifest.inputs.items()}
    reasons += [f"its input {name} has changed" for name in identity.inputs
                if digests.get(name) != identity.inputs[name]]
    reasons += [f"{name} from outside has changed" for name in sorted({*identity.given, *manifest.given})
                if identity.given.get(name) != manifest.given.get(name)]
    if manifest.made_by(identity.code.digest):
        return reasons, []
    return reasons, changed_files(manifest.code_files, identity.code.files) or ["(not recorded)"]


def _code_changed(files: list[str]) -> list[str]:
    if not files:
        return []
    more = f" and {len(files) - 2} more" if len(files) > 2 else ""
    return [f"its code has changed: {', '.join(files[:2])}{more}"]


def _listed(reasons: list[str]) -> str:
    more = f" (and {len(reasons) - REASONS} more)" if len(reasons) > REASONS else ""
    return ", ".join(reasons[:REASONS]) + more


def last_seconds(workspace: Workspace, stage: Stage) -> float | None:
    """How long the stage took when its output was made last; None if that is not known."""
    try:
        seconds = from_json((workspace.data / "cost" / f"{stage.name}.json").read_bytes())["seconds"]
    except (OSError, NotPlain, KeyError, TypeError):
        return None
    return float(seconds) if isinstance(seconds, (int, float)) and 0 <= seconds < 1e12 else None


def changes(old: dict, new: dict, prefix: str = "") -> list[tuple[str, object, object]]:
    """Dotted keys whose values differ between two nested mappings, with both values (None where absent)."""
    differing = []
    for name in sorted({*old, *new}):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            differing += changes(a, b, f"{prefix}{name}.")
        elif a != b or (name in old) != (name in new):
            differing.append((prefix + name, a, b))
    return differing


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "…"
