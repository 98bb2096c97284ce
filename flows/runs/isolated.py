"""Runs in a workspace of their own: the worktree of a recorded commit, frozen params.yaml, a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from fewstep.util.errors import FewstepError, NotAvailable, SettingsError
from fewstep.util.files import mode_of, write_atomically
from flows.output import console, say
from flows.runs.new_run import keep_changes, preview, settings_of
from flows.runs.signals import handled
from flows.runs.storage_ready import require_storage
from flows.telemetry import json_log
from tasks.config.schema import Settings
from tasks.engine import graph
from tasks.engine.plan import PlanItem
from tasks.storage import git, worktrees
from tasks.storage.code_state import sources
from tasks.storage.sharing.shared_store import is_shared
from tasks.storage.workspace import Workspace, source_path
from tasks.tracking.all_runs import AllRuns
from tasks.tracking.run_record import FINISHED, RunRecord, settings_digest
from tasks.tracking.run_records import RunStore
from tasks.tracking.store_uri import missing_database


def resolve(workspace: Workspace, sets: list[str], params: Path | None) -> tuple[Settings, str]:
    """The settings of `params` (default: params.yaml) with `sets`, and the file that says so. Writes nothing to the
    checkout. Paths of files outside git (a saved teacher, an untracked recipe or file of prompts) are made absolute."""
    settings, _ = preview(workspace, sets, params)
    absolute = [f"{key}={json.dumps(str(path))}" for key, path in outside_git(workspace, settings).items()]
    return preview(workspace, [*sets, *absolute], params)


def outside_git(workspace: Workspace, settings: Settings) -> dict[str, Path]:
    """The settings that name files which no commit holds, with their absolute paths."""
    named = []
    if settings.teacher.given:
        named.append(("teacher.path" if settings.teacher.path else "teacher.source", settings.teacher.given))
    if settings.distill.recipe.endswith((".yaml", ".yml")):
        named.append(("distill.recipe", settings.distill.recipe))
    if settings.data.prompts:
        named.append(("data.prompts", settings.data.prompts))
    places = {key: workspace.root / Path(path).expanduser() for key, path in named}
    return {key: path for key, path in places.items() if not worktrees.is_tracked(workspace, path)}


def nothing_to_do(workspace: Workspace, items: list[PlanItem]) -> bool:
    """Whether a run would only bring back known outputs: each is here, in DVC's cache, or (registration, which DVC does
    not keep) was made by a finished run whose database is still there."""
    if all(item.state in ("current", "restorable") for item in items):
        return True
    if missing_database(workspace.mlflow_uri):
        return False
    finished = [record for record in RunStore(workspace).all() if record.state == FINISHED]
    keys = {stage.key for record in finished for stage in record.stages.values()}
    return all(item.state in ("current", "restorable") or (not graph.stage(item.stage).in_dvc and item.key in keys)
               for item in items)


def start(workspace: Workspace, settings: Settings, text: str, *, origin: str | None = None) -> RunRecord:
    """The unfinished isolated run with these settings and this code, of whatever host, else a new one.

    Args:
        workspace: the checkout.
        settings: of the run.
        text: its params.yaml.
        origin: name of the schedule that starts it; None for a person.

    Raises:
        SettingsError: there is no commit to make a worktree of, or the store behind DVC's remote refuses.
    """
    require_storage(workspace)
    store, frozen = RunStore(workspace), settings.model_dump(mode="json")
    made_of = sources(workspace, commit_changes=True)
    commit, code = made_of.workspace.commit, made_of.origin
    if commit is None:
        raise SettingsError(f"{workspace.root} is not in a git repository with a commit",
                            hint="isolated and scheduled runs work in a worktree of a commit: make one")
    runs = AllRuns(workspace)
    known = runs.newest_isolated(settings_digest(frozen))
    if known is not None and known.can_be_continued and worktrees.same_sources(
            workspace, known.record.commit, known.record.code, commit, code):
        record = runs.adopt(known)
    else:
        record = store.new(frozen, isolated=True, origin=origin, commit=commit, modified=made_of.workspace.modified,
                           code=code)
        keep_changes(store, record, made_of)
    write_atomically(store.folder_of(record.id) / "params.yaml", text, mode=mode_of(workspace.params))
    return record


def execute(workspace: Workspace, record: RunRecord, *, json_mode: bool = False, quiet: bool = False) -> RunRecord:
    """Runs it in a child process that dies with this one, and waits. The worktree stays until `tidy`.

    Args:
        workspace: the checkout.
        record: of the run.
        json_mode: whether stdout is kept free for a JSON answer.
        quiet: whether the child's output goes into the file output.log in the run's folder; where it is JSON, it is for
            a program, and stays where it is.

    Raises:
        SystemExit: with the child's exit code when that is not 0; the child has said why.
    """
    store = RunStore(workspace)
    made_of = _made_of(workspace, record)
    for place, commit in made_of.items():
        if not git.knows(place, commit):
            _fetch_commit(workspace, store, record, place, commit)
    root = worktrees.add(workspace, record.id, record.commit, record.code).root
    for place in made_of:
        _share_commit(workspace, store, record, place)
    frozen = store.folder_of(record.id) / "params.yaml"
    write_atomically(root / "params.yaml", frozen.read_bytes())
    if record.root != str(root):
        record.root = str(root)
        store.save(record)
    if settings_of(record).data.source == "raw":
        worktrees.bring(Workspace(root), "data/raw.dvc")
    with contextlib.ExitStack() as files:
        to_file = quiet and not json_log.asked()
        output = files.enter_context(open(store.folder_of(record.id) / "output.log", "ab")) if to_file else None
        code = _run_child(root, record.id, json_mode, output)
    record = store.load(record.id)
    if code:
        sys.exit(code)
    if record.state != FINISHED:
        raise FewstepError(f"run {record.id} ended without saying how", hint=record.resume_command)
    for name in ("dvc.lock", "data/evaluation/grid.png"):
        if (root / name).exists():
            write_atomically(store.folder_of(record.id) / Path(name).name, (root / name).read_bytes())
    return record


def _made_of(workspace: Workspace, record: RunRecord) -> dict[Path, str]:
    """The repositories here that hold what a run is made of, and the commit of each."""
    apart = record.code is not None and record.code.commit
    return {workspace.root: record.commit} | ({workspace.code: record.code.commit} if apart else {})


def _share_commit(workspace: Workspace, store: RunStore, record: RunRecord, place: Path) -> None:
    """Let other hosts have the commits that no git remote has: uncommitted changes are one. Without them the run can
    be continued here alone."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "code.bundle"
            if is_shared(workspace) and git.bundle(place, worktrees.reference(record.id), path):
                store.shared.keep_commit(record.id, path, apart=place != workspace.root)
    except FewstepError as error:
        say(console(stderr=True), f"warning: other hosts cannot continue this run: {error}")


def _fetch_commit(workspace: Workspace, store: RunStore, record: RunRecord, place: Path, commit: str) -> None:
    """Bring a commit of another host's run into the repository here. Raises NotAvailable where it is nowhere."""
    hint = "`git fetch` brings it, if the host that began the run has pushed it"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "code.bundle"
        if store.shared.fetch_commit(record.id, path, apart=place != workspace.root):
            git.unbundle(place, worktrees.reference(record.id), path)
    if not git.knows(place, commit):
        where = "this clone does" if place == workspace.root else f"the code in {place} does"
        raise NotAvailable(f"run {record.id} is made of commit {commit[:10]}, which {where} not have", hint=hint)


def tidy(workspace: Workspace, record: RunRecord) -> None:
    """Removes the worktree of a finished run; its dvc.lock and pictures lie in the run's folder."""
    worktrees.remove(workspace, record.id)


def _run_child(root: Path, run: str, json_mode: bool, output: IO[bytes] | None) -> int:
    """Runs `flows.runs.attempt` in the worktree `root`, passing signals on; returns its exit code."""
    environment = dict(os.environ, FEWSTEP_PARENT=str(os.getpid()), PYTHONPATH=source_path({}, Workspace(root).code))
    environment.pop("PYTHONSAFEPATH", None)
    arguments = [sys.executable, "-m", "flows.runs.attempt", run] + (["--json"] if json_mode else [])
    child = subprocess.Popen(arguments, cwd=root, env=environment, process_group=0, stdout=output, stderr=output)

    def forward(number: int) -> None:
        if child.poll() is None:
            child.send_signal(number)

    with handled(forward):
        code = child.wait()
    return 128 - code if code < 0 else code
