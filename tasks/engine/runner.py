"""Runs one stage so that killing it at any instant costs at most the work since its last checkpoint.

The stage does the work (tasks.stages.base); everything that makes the result trustworthy happens here: the key, the
manifest, the swap into place, DVC's record. The caller holds the checkout's lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator

from fewstep.util.cores import cores
from fewstep.util.errors import CorruptData, FewstepError, NotAvailable, SettingsError
from fewstep.util.files import disk_full, is_disk_full, sweep_tree, write_atomically
from fewstep.util.source_code import Code
from tasks.config.outside import outside_paths
from tasks.config.schema import Settings
from tasks.engine import graph, half_made, idle_devices, publish, shared_unit, stage_code, work_fingerprints
from tasks.engine import manifest as manifests
from tasks.engine.environment_fingerprint import fingerprint, versions
from tasks.engine.events import Observer, Observers, Outcome
from tasks.engine.group.nodes import Nodes
from tasks.engine.key_claim import Claim, Wanted, Watched, claimed
from tasks.engine.local_execution import Execute, in_threads
from tasks.engine.manifest import InputRecord, Manifest
from tasks.engine.plan import PlanItem, Survey, stat_table
from tasks.engine.stage_key import Identity, outside_digests, resolve
from tasks.engine.unit_work import UnitWork
from tasks.stages.base import Context, Stage
from tasks.storage import remote_outputs
from tasks.storage.code_state import keep_commit
from tasks.storage.dvc import dvc_cache, dvc_repo, dvc_yaml
from tasks.storage.file_io import StatTable
from tasks.storage.published_outputs import restorable
from tasks.storage.sharing.lease import LeaseLost
from tasks.storage.workspace import Workspace


def run_stage(workspace: Workspace, name: str, settings: Settings, *, observer: Observer | None = None,
              execute: Execute | None = None, nodes: Nodes | None = None, dvc: bool = True,
              run: str | None = None) -> Outcome:  # fmt: skip
    """Bring the stage's output up to date under `settings` and record it in DVC (unless DVC itself called us).

    What another process or host is making is waited for. `execute` runs the units (default: threads of this process);
    `nodes` share those that are trainings (default: this one alone); `run` is the pipeline run that others are told of.
    Raises SettingsError before anything is changed, DiskFull and the stage's own errors with finished work kept.
    """
    stage = graph.stage(name)
    observer = observer or Observer()
    with contextlib.closing(stat_table(workspace)) as table:
        try:
            with _named_disk_errors(workspace, stage):
                record = dvc and stage.in_dvc and not under_dvc()
                return StageRun(workspace, stage, settings, observer, execute, nodes, table, record,
                                run).bring_up_to_date()
        except Exception as error:
            observer.stage_failed(name, error)
            raise
        except BaseException:   # a signal's
            observer.stage_interrupted(name)
            raise


def under_dvc() -> bool:
    """Whether `dvc repro` called us: it records the stage itself when we return."""
    return bool(os.environ.get("DVC_STAGE"))


def settle(workspace: Workspace, settings: Settings, items: list[PlanItem]) -> dict[str, str]:
    """Bring DVC's record of the current stages among `items` up to date; returns what was refused, by stage.

    Costs nothing when every record is in order; the caller holds the checkout's lock.
    """
    refused = {}
    dvc_yaml.sync_given(workspace, settings)
    for item in items:
        if item.state == "current" and not item.recorded and not under_dvc():
            manifest = manifests.load(workspace.root / graph.stage(item.stage).output)
            text = dvc_repo.record(workspace, item.stage, manifest)
            if text:
                refused[item.stage] = text
    return refused


class StageRun:
    """One attempt to bring a stage's output up to date; `record`: whether DVC and the other hosts are told of it."""

    def __init__(self, workspace: Workspace, stage: Stage, settings: Settings, observer: Observer,
                 execute: Execute | None, nodes: Nodes | None, table: StatTable, record: bool, run: str | None):
        self.workspace, self.stage, self.settings = workspace, stage, settings
        self.observer, self.execute, self.nodes, self.table = observer, execute, nodes, table
        self.record, self.run = record, run
        self.folder = workspace.root / stage.output

    def bring_up_to_date(self) -> Outcome:
        """Restore or make what is not current, record it in DVC, and make what stands beside it."""
        started, stage = time.monotonic(), self.stage
        publish.complete(self.workspace)
        stage_code.check_code(stage, resolve(stage, self.settings, self.workspace.root), self.workspace, self.table)
        dvc_yaml.sync_given(self.workspace, self.settings)
        item, identity = self._look()
        self.observer.stage_started(stage.name, item.key)
        if item.false_record:
            self.observer.stage_warned(stage.name, item.false_record)
        if item.state == "current":
            state, cost, refused = "current", {}, None if item.recorded else self._record()
        else:
            state, cost, refused = self._bring(identity)
        outcome = Outcome(state, manifests.load(self.folder), time.monotonic() - started, refused)
        self._make_beside()
        self.observer.stage_finished(stage.name, outcome, cost)
        return outcome

    def _bring(self, identity: Identity) -> tuple[str, dict, str | None]:
        """Put back or make the output: `restored` or `made`, its cost, why DVC's record was refused.

        While another process or host makes it, it is waited for; one that takes it over from us is waited for too.
        """
        wanted = Wanted(self.workspace, self.stage.name, identity.key, self.run, self.observer)
        spoilt = not self.stage.in_dvc      # what DVC does not keep can be had from nobody

        def is_here() -> bool:
            return not spoilt and restorable(self.workspace, identity.key) is not None

        def is_there() -> bool:
            return is_here() or (not spoilt and self._ask_others(identity.key))

        while True:
            try:
                with claimed(wanted, is_here, is_there) as claim:
                    if not claim.there:
                        cost = self._make(identity, claim)
                        refused = self._record()
                        self._share(claim)
                        return "made", cost, refused
            except LeaseLost as lost:
                wanted.note(str(lost))
                continue
            if self._restore(identity):
                return "restored", {}, self._record()
            spoilt = True

    def _record(self) -> str | None:
        """Have DVC record the published output; why it refused, None if it did not."""
        if not self.record:
            return None
        refused = dvc_repo.record(self.workspace, self.stage.name, manifests.load(self.folder))
        if refused:
            self.observer.stage_warned(self.stage.name, refused)
        return refused

    def _share(self, claim: Claim) -> None:
        """Let the other hosts have the output. That they cannot yet is a warning: it is sent again before anything is
        registered."""
        if not self.stage.in_dvc:
            claim.finished()
        if not self.record:
            return
        try:
            note = remote_outputs.share(self.workspace, self.stage)
        except FewstepError as error:
            self.observer.stage_warned(self.stage.name, f"not yet on the DVC remote: {error}")
            return
        if note:
            self.observer.stage_warned(self.stage.name, note)
        claim.finished()

    def _look(self) -> tuple[PlanItem, Identity]:
        """The stage's state with the inputs that are published now, whatever settings they were made under."""
        survey = Survey(self.workspace, self.settings, self.table)
        for name in self.stage.inputs:
            folder = self.workspace.root / graph.stage(name).output
            if manifests.load(folder) is None:
                raise SettingsError(
                    f"stage '{self.stage.name}' needs {folder.relative_to(self.workspace.root)}, which is not there",
                    hint=f"`fewstep stage run {name}` makes it; `fewstep run` does all in order")
            survey.digests[name] = manifests.verify(folder, self.table).digest
        return survey.look(self.stage), survey.identities[self.stage.name]

    def _ask_others(self, key: str) -> bool:
        """Whether another machine has made this key and let the shared store have it."""
        problem = remote_outputs.learn(self.workspace, key)
        if problem:
            self.observer.stage_warned(self.stage.name, problem)
        return restorable(self.workspace, key) is not None

    def _restore(self, identity: Identity) -> bool:
        """Put back an output made before from DVC's cache; False (with a warning) when the cache lacks parts of it."""
        publish.check_same_file_system(self.workspace)
        work = self.workspace.partial / f"{identity.key}-restore"
        try:
            dvc_cache.materialise(self.workspace, identity.key, work / "out")
            if identity.key_of(manifests.verify(work / "out", self.table)) is None:
                raise CorruptData(f"{work / 'out'}: holds another output than {identity.key[:12]}")
        except (NotAvailable, CorruptData) as error:
            publish.discard(work, publish.trash(self.workspace))
            self.observer.stage_warned(self.stage.name, f"not restored from DVC's cache ({error}); made anew")
            return False
        publish.publish(self.workspace, self.stage, work)
        for half_made_here in self.workspace.partial.glob(f"{identity.key}*"):      # before another finished it
            publish.discard(half_made_here, publish.trash(self.workspace))
        return True

    def _make(self, identity: Identity, claim: Claim) -> dict:
        """Run the stage's units and publish what it made of them; returns its cost."""
        publish.check_same_file_system(self.workspace)
        stage, context = self.stage, self._context(identity, claim)
        stage.check(context)
        stage_code.load(identity.code)
        stage_code.check_code(stage, context.settings, self.workspace, self.table)
        self._keep_commit(identity.code)
        left = half_made.left_for_its_code(self.workspace, identity)
        if left:
            self.observer.stage_warned(stage.name, left)
        for text in idle_devices.said_of(stage, self.workspace.root, self.settings):
            self.observer.stage_warned(stage.name, text)
        with claim.working_in(context.work):
            prepare(stage, context)
            half_made.note(context.work, identity)
            summary = run_units(stage, context, self.execute)
            prints = work_fingerprints.noted(context.work)
        if outside_digests(stage, self.settings, self.workspace, self.table) != identity.given:
            changed = ", ".join(map(str, context.outside.values()))
            raise CorruptData(f"stage '{stage.name}': {changed} was changed during the run, so nothing was published",
                              hint="run it again when nothing writes there")
        files = manifests.scan(context.out, self.table)
        manifests.write(context.out, Manifest(
            stage=stage.name, key=identity.key, digest=manifests.tree_digest(files), files=files,
            settings=identity.settings, seed=identity.seed, given=identity.given, code=identity.code.digest,
            code_files=identity.code.files, fingerprint=tuple(prints), summary=summary, versions=versions(),
            inputs={name: InputRecord(key=m.key, digest=m.digest) for name, m in context.manifests.items()}))
        publish.publish(self.workspace, stage, context.work)
        costs = json.dumps({**context.cost, "key": identity.key}, indent=1, sort_keys=True) + "\n"
        write_atomically(self.workspace.data / "cost" / f"{stage.name}.json", costs)
        return context.cost

    def _keep_commit(self, code: Code) -> None:
        """Remember which commit holds the code; without it the output is as good, and cannot be compared later."""
        try:
            keep_commit(self.workspace, code.digest)
        except FewstepError as error:
            self.observer.stage_warned(self.stage.name, f"which commit made this is not recorded: {error}")

    def _context(self, identity: Identity, claim: Claim) -> Context:
        root, stage = self.workspace.root, self.stage
        paths = outside_paths(self.settings, root)
        previous = manifests.load_quietly(self.folder)
        return Context(
            stage=stage.name, key=identity.key, settings=resolve(stage, self.settings, root), seed=self.settings.seed,
            inputs={name: root / graph.stage(name).output for name in stage.inputs},
            manifests={name: manifests.load(root / graph.stage(name).output) for name in stage.inputs},
            outside={name: paths[name] for name in stage.outside if paths[name] is not None},
            work=self.workspace.partial / identity.key, workspace=self.workspace,
            previous=self.folder if previous else None,
            previous_code_equal=previous is not None and previous.made_by(identity.code.digest),
            workers=self.settings.trajectories.workers or cores(), processes=self.settings.compute.processes,
            nodes=self.nodes,
            parallel=self.settings.compute.parallel, reshard=self.settings.compute.reshard,
            observer=Observers([Watched(claim), self.observer]),
            checkpoint_images=self.settings.distill.checkpoint_images,
            gradient_checkpointing=self.settings.distill.gradient_checkpointing,
            ema_device=self.settings.distill.ema_device)

    def _make_beside(self) -> None:
        """Make what stands beside the output. That it cannot be made is a warning: the output is valid without it."""
        try:
            folder = self.stage.beside(self.workspace)
        except Exception as error:
            if is_disk_full(error):
                raise
            text = str(error).splitlines()[0] if str(error) else ""
            self.observer.stage_warned(self.stage.name, f"no report: {type(error).__name__}: {text}")
            return
        if folder is not None:
            try:
                self.observer.stage_aside(self.stage.name, folder)
            except FewstepError as error:
                self.observer.stage_warned(self.stage.name, f"the report is here, and not kept everywhere: {error}")


def prepare(stage: Stage, context: Context) -> None:
    """Make the folders of a stage's work and note the machine."""
    for folder in (context.out, context.scratch):
        folder.mkdir(parents=True, exist_ok=True)
    sweep_tree(context.work)
    work_fingerprints.note(context, fingerprint() | shared_unit.shards(stage, context))


def run_units(stage: Stage, context: Context, execute: Execute | None = None, measure: bool = True) -> dict:
    """Do what is left of the stage's work, so that `context.out` is the whole output; returns the stage's summary.

    `measure`: whether durations, latency and memory are recorded.
    """
    begun = time.monotonic()
    (execute or in_threads(context.workers))(UnitWork(stage, context), stage.units(context))
    result = stage.finish(context)
    if measure:
        context.record_cost({"seconds": round(time.monotonic() - begun, 3)})
        context.record_cost(stage.costs(context))
    return result.model_dump(mode="json", exclude_none=True)


@contextlib.contextmanager
def _named_disk_errors(workspace: Workspace, stage: Stage) -> Iterator[None]:
    """Turn a full disk anywhere in a stage into DiskFull that names the stage's folder."""
    try:
        yield
    except FewstepError:
        raise
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise disk_full(f"{stage.output} (stage '{stage.name}', in {workspace.root})") from error
