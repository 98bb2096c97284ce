"""Runs one stage so that killing it at any instant costs at most the work since its last checkpoint.

A stage's module does the work (see Context for what it is given); everything that makes the result trustworthy happens
here: the key, the manifest, the swap into place, DVC's record. The caller holds the checkout's lock.
"""

from __future__ import annotations

import importlib
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewstep.util.errors import CorruptData, FewstepError, NotAvailable, SettingsError
from fewstep.util.files import disk_full, is_disk_full, sweep_tree, write_atomically
from fewstep.util.workers import in_threads as units_in_threads
from tasks.config.schema import Settings
from tasks.engine import graph, publish, stage_key
from tasks.engine import manifest as manifests
from tasks.engine.events import Observer
from tasks.engine.manifest import Manifest
from tasks.engine.plan import PlanItem, Survey, restorable, stat_table
from tasks.storage import dvc_lockfile, remote_outputs
from tasks.storage.file_io import StatTable
from tasks.storage.workspace import Workspace

Execute = Callable[[Callable[[str], None], list[str], bool], None]


@dataclass
class Outcome:
    """How a stage ended: `current` (nothing done), `restored` (from DVC's cache) or `made`.

    `dvc_refused` says why dvc.lock was left as it was although the result is valid; None when it was written.
    """

    state: str
    manifest: Manifest
    seconds: float
    dvc_refused: str | None = None


@dataclass
class Context:
    """What a stage's module works with.

    `settings`: as resolved in tasks.engine.graph; `inputs`: verified folders by stage name, `manifests`: theirs; `given`:
    paths from outside the pipeline. `work` survives kills; `out` becomes the output folder, whole;
    `scratch` (checkpoints, loose records) is deleted after publishing; `previous`: the output published now, if any,
    whatever its key. `workers` and `checkpoint_images` (images between checkpoints; None: by time) change no byte.
    """

    stage: str
    key: str
    settings: dict
    seed: int
    inputs: dict[str, Path]
    manifests: dict[str, Manifest]
    given: dict[str, Path]
    work: Path
    previous: Path | None
    workspace: Workspace
    workers: int = 1
    checkpoint_images: int | None = None
    observer: Observer = field(default_factory=Observer)
    cost: dict = field(default_factory=dict)

    def __post_init__(self):
        self._lock = threading.Lock()

    @property
    def out(self) -> Path:
        return self.work / "out"

    @property
    def scratch(self) -> Path:
        return self.work / "scratch"

    def progress(self, done: int, total: int, unit: str = "images", metrics: dict[str, float] | None = None,
                 step: int | None = None) -> None:
        """Tell whoever listens; may be called from several threads."""
        with self._lock:
            self.observer.stage_progress(self.stage, done, total, unit, metrics, step)

    def warn(self, text: str) -> None:
        """Tell a person something that does not stop the stage."""
        with self._lock:
            self.observer.stage_warned(self.stage, text)

    def record_cost(self, figures: dict) -> None:
        """What never repeats (durations, latency, memory): goes to data/cost/<stage>.json, never into a manifest."""
        with self._lock:
            self.cost.update(figures)


def run_stage(workspace: Workspace, name: str, settings: Settings, *, observer: Observer | None = None,
              execute: Execute | None = None, dvc: bool = True) -> Outcome:
    """Bring the stage's output up to date under `settings` and record it in DVC (unless DVC itself called us).

    `execute(fn, units, parallel)` runs `fn` on every unit; the default uses threads. Raises SettingsError before
    anything is changed, Busy never (the caller locks), DiskFull and the stage's own errors with finished work kept.
    """
    stage = graph.stage(name)
    observer = observer or Observer()
    started = time.monotonic()
    table = stat_table(workspace)
    try:
        with _named_disk_errors(workspace, stage):
            return _run(workspace, stage, settings, observer, execute, dvc and not under_dvc(), table, started)
    except BaseException as error:
        observer.stage_failed(name, error)
        raise
    finally:
        table.close()


def under_dvc() -> bool:
    """Whether `dvc repro` called us: it records the stage itself when we return."""
    return bool(os.environ.get("DVC_STAGE"))


def settle(workspace: Workspace, settings: Settings, items: list[PlanItem]) -> dict[str, str]:
    """Bring DVC's record of the current stages among `items` up to date; returns what was refused, by stage.

    Costs nothing when every record is in order; the caller holds the checkout's lock.
    """
    refused = {}
    dvc_lockfile.sync_given(workspace, settings)
    for item in items:
        if item.state == "current" and not item.recorded and not under_dvc():
            stage = graph.stage(item.stage)
            text = _record(workspace, stage, manifests.load(workspace.root / stage.output))
            if text:
                refused[item.stage] = text
    return refused


def _run(workspace: Workspace, stage: graph.Stage, settings: Settings, observer: Observer, execute: Execute | None,
         dvc: bool, table: StatTable, started: float) -> Outcome:
    publish.complete(workspace)
    stage_key.check_code(workspace, stage)
    dvc_lockfile.sync_given(workspace, settings)
    item = _look(workspace, stage, settings, table)
    observer.stage_started(stage.name, item.key)
    if item.false_record:
        observer.stage_warned(stage.name, item.false_record)
    state, folder, cost = item.state, workspace.root / stage.output, {}
    if state in ("stale", "missing") and stage.in_dvc:
        state = _ask_others(workspace, stage, item, observer)
    if state == "restorable":
        state = "restored" if _restore(workspace, stage, item.key, table, observer) else "stale"
    if state in ("stale", "missing"):
        cost = _make(workspace, stage, settings, item.key, observer, execute, table)
        state = "made"
    manifest = manifests.load(folder)
    refused = None
    if dvc and stage.in_dvc and not (state == "current" and item.recorded):
        refused = _record(workspace, stage, manifest)
        if refused:
            observer.stage_warned(stage.name, refused)
    outcome = Outcome(state, manifest, time.monotonic() - started, refused)
    if stage.aside:
        _aside(workspace, stage, observer)
    observer.stage_finished(stage.name, outcome, cost)
    return outcome


def _look(workspace: Workspace, stage: graph.Stage, settings: Settings, table: StatTable) -> PlanItem:
    """The stage's state with the inputs that are published now, whatever settings they were made under."""
    survey = Survey(workspace, settings, table)
    for name in stage.inputs:
        folder = workspace.root / graph.stage(name).output
        if manifests.load(folder) is None:
            raise SettingsError(f"stage '{stage.name}' needs {folder.relative_to(workspace.root)}, which is not there",
                                hint=f"`fewstep stage run {name}` makes it; `fewstep run` does all in order")
        survey.digests[name] = manifests.verify(folder, table).digest
    return survey.look(stage)


def _make(workspace: Workspace, stage: graph.Stage, settings: Settings, key: str, observer: Observer,
          execute: Execute | None, table: StatTable) -> dict:
    publish.check_same_file_system(workspace)
    implementation = importlib.import_module(stage.implementation)
    stage_key.check_unchanged(stage)
    paths = graph.given(settings, workspace.root)
    target = workspace.root / stage.output
    context = Context(
        stage=stage.name, key=key, settings=stage_key.resolved(stage, settings, workspace.root),
        seed=settings.seed,
        inputs={name: workspace.root / graph.stage(name).output for name in stage.inputs},
        manifests={name: manifests.load(workspace.root / graph.stage(name).output) for name in stage.inputs},
        given={name: paths[name] for name in stage.given if paths[name] is not None},
        work=workspace.partial / key, previous=target if manifests.load_quietly(target) else None,
        workspace=workspace, workers=_workers(settings), observer=observer,
        checkpoint_images=settings.distill.checkpoint_images)
    if hasattr(implementation, "check"):
        implementation.check(context)
    given = stage_key.given_digests(stage, settings, workspace, table)
    for folder in (context.out, context.scratch):
        folder.mkdir(parents=True, exist_ok=True)
    sweep_tree(context.work)
    prints = _fingerprints(context)
    begun = time.monotonic()
    units = list(implementation.units(context))
    (execute or in_threads(context.workers))(lambda unit: implementation.run_unit(context, unit), units,
                                             bool(implementation.PARALLEL))
    summary = implementation.finish(context)
    context.record_cost({"seconds": round(time.monotonic() - begun, 3)})
    if hasattr(implementation, "cost"):
        context.record_cost(implementation.cost(context) or {})
    if stage_key.given_digests(stage, settings, workspace, table) != given:
        changed = ", ".join(map(str, context.given.values()))
        raise CorruptData(f"stage '{stage.name}': {changed} was changed during the run, so nothing was published",
                          hint="run it again when nothing writes there")
    files = manifests.scan(context.out, table)
    manifests.write(context.out, Manifest(
        stage=stage.name, key=key, digest=manifests.tree_digest(files), files=files, settings=context.settings,
        seed=settings.seed, given=given, code=stage_key.this_code(stage.name), fingerprint=prints, summary=summary or {},
        inputs={name: {"key": m.key, "digest": m.digest} for name, m in context.manifests.items()},
        versions=_versions()))
    publish.publish(workspace, stage, context.work)
    costs = json.dumps({**context.cost, "key": key}, indent=1, sort_keys=True) + "\n"
    write_atomically(workspace.data / "cost" / f"{stage.name}.json", costs)
    return context.cost


def _aside(workspace: Workspace, stage: graph.Stage, observer: Observer) -> None:
    """Makes what stands beside the output. That it cannot be made is a warning: the output is valid without it."""
    module, _, function = stage.aside.partition(":")
    try:
        folder = getattr(importlib.import_module(module), function)(workspace)
    except Exception as error:
        if is_disk_full(error):
            raise
        text = str(error).splitlines()[0] if str(error) else ""
        observer.stage_warned(stage.name, f"no report: {type(error).__name__}: {text}")
        return
    observer.stage_aside(stage.name, folder)


def _workers(settings: Settings) -> int:
    return settings.trajectories.workers or len(os.sched_getaffinity(0))


def _versions() -> dict:
    from tasks.engine.environment_fingerprint import versions

    return versions()


def _fingerprints(context: Context) -> list[dict]:
    """The fingerprints this work was done under so far, the present one included; a second one is worth a warning."""
    from tasks.engine.environment_fingerprint import fingerprint

    path, here = context.work / "fingerprints.json", fingerprint()
    known = json.loads(path.read_bytes()) if path.exists() else []
    if here not in known:
        if known:
            changed = ", ".join(f"{name} {known[-1].get(name)} → {here[name]}" for name in here
                                if known[-1].get(name) != here[name])
            context.warn(f"continued on another machine or with other libraries ({changed}): the result is valid, "
                         "equality bit for bit with an undisturbed run is not claimed")
        known.append(here)
        write_atomically(path, json.dumps(known))
    return known


def in_threads(workers: int) -> Execute:
    """Run units one after another, or independent ones in `workers` threads with one torch thread each."""

    def execute(work: Callable[[str], None], units: list[str], parallel: bool) -> None:
        units_in_threads(workers if parallel else 1)(work, units)

    return execute


def _ask_others(workspace: Workspace, stage: graph.Stage, item: PlanItem, observer: Observer) -> str:
    """The stage's state after asking the shared store whether another machine has made this key."""
    problem = remote_outputs.learn(workspace, item.key)
    if problem:
        observer.stage_warned(stage.name, problem)
    return "restorable" if restorable(workspace, item.key) else item.state


def _restore(workspace: Workspace, stage: graph.Stage, key: str, table: StatTable, observer: Observer) -> bool:
    """Put back an output made before from DVC's cache; False (with a warning) when the cache does not have it whole."""
    from tasks.storage import dvc_repo

    publish.check_same_file_system(workspace)
    work = workspace.partial / f"{key}-restore"
    try:
        dvc_repo.materialise(workspace, key, work / "out")
        manifest = manifests.verify(work / "out", table)
        if manifest.key != key:
            raise CorruptData(f"{work / 'out'}: holds another output than {key[:12]}")
    except (NotAvailable, CorruptData) as error:
        publish.discard(work, publish.trash(workspace))
        observer.stage_warned(stage.name, f"not restored from DVC's cache ({error}); made anew")
        return False
    publish.publish(workspace, stage, work)
    return True


def _record(workspace: Workspace, stage: graph.Stage, manifest: Manifest) -> str | None:
    from tasks.storage import dvc_repo

    return dvc_repo.record(workspace, stage.name, manifest)


class _named_disk_errors:
    """Turns a full disk anywhere in a stage into DiskFull that names the stage's folder."""

    def __init__(self, workspace: Workspace, stage: graph.Stage):
        self.what = f"{stage.output} (stage '{stage.name}', in {workspace.root})"

    def __enter__(self):
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, FewstepError) and is_disk_full(error):
            raise disk_full(self.what) from error
