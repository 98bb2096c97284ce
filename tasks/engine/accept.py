"""Keeping results whose code has changed, where the change makes the same bytes: what a digest of code cannot see.

A short run of the stage by the code that made the result, from its recorded commit in a worktree, is compared bit for
bit with one by today's code. What was accepted, by whom, why and how it was compared stands in the result's manifest.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fewstep.util.config import parse
from fewstep.util.errors import DataDiffers, FewstepError, NotAvailable, SettingsError
from fewstep.util.source_code import ROOT
from tasks.config.outside import outside_paths
from tasks.config.schema import Settings
from tasks.engine import graph
from tasks.engine import manifest as manifests
from tasks.engine.manifest import Acceptance, Manifest
from tasks.engine.plan import PlanItem, plan, stat_table
from tasks.engine.runner import settle
from tasks.engine.short_run import VERSION, Answer, Request
from tasks.engine.stage_code import changed_files, source_tree, stage_code
from tasks.engine.stage_key import identify
from tasks.stages.base import Stage
from tasks.storage import git, published_outputs
from tasks.storage.code_state import commit_of
from tasks.storage.dvc import dvc_repo
from tasks.storage.workspace import Workspace, source_path
from tasks.storage.worktrees import remove_worktree

UNCHECKED = "`--unchecked` accepts the output without a comparison"


def acceptable(items: list[PlanItem]) -> list[str]:
    """Names of the stages that would be made again for nothing but their code."""
    return [item.stage for item in items if item.state == "stale" and item.only_code]


def require_reason(why: str) -> None:
    """Raises SettingsError for an empty reason."""
    if not why.strip():
        raise SettingsError("--why: the reason is empty", hint="say what was changed, for readers of the lineage")


@dataclass(frozen=True)
class Accepted:
    """What `accept` did: stages whose outputs are kept, and errors by stage of those that could not be."""

    stages: list[str]
    refused: dict[str, FewstepError]


def accept(workspace: Workspace, settings: Settings, names: list[str] | None, *, why: str, who: str,
           check: bool = True, say: Callable[[str], None] = print) -> Accepted:  # fmt: skip
    """Accept the outputs of stages (None: of all that can be) whose code alone has changed.

    Stages are taken in their order: that an input is accepted may leave a later stage with nothing but its code. The
    caller holds the checkout's lock. `check`: compare a short run of both codes first. `say` is told of each step. A
    stage whose bits differ (DataDiffers) or whose old code cannot be run (NotAvailable) is left stale and refused.

    Raises:
        SettingsError: no reason; a named stage that differs in more than its code or has no output.
    """
    require_reason(why)
    for name in names or ():
        if not graph.stage(name).in_dvc:
            raise SettingsError(f"stage '{name}' makes no data that could be kept: `fewstep run` does it again")
    accepted, refused = [], {}
    for stage in graph.IN_DVC:
        if names is not None and stage.name not in names:
            continue
        item = next(item for item in plan(workspace, settings) if item.stage == stage.name)
        if item.state != "stale" or not item.only_code:
            if names is not None and item.state == "current":
                say(f"{stage.name}: is up to date")
            elif names is not None:
                raise SettingsError(f"stage '{stage.name}' is not accepted: {_unacceptable(item)}")
            continue
        try:
            _accept(workspace, stage, settings, why, who, check, say)
            accepted.append(stage.name)
        except (DataDiffers, NotAvailable) as error:
            refused[stage.name] = error
            say(str(error))
    if accepted:
        for text in settle(workspace, settings, plan(workspace, settings)).values():
            say(text)
    return Accepted(accepted, refused)


def _unacceptable(item: PlanItem) -> str:
    if item.state == "missing":
        return "it was never made"
    return f"not its code alone has changed ({item.why})"


def _accept(workspace: Workspace, stage: Stage, settings: Settings, why: str, who: str, check: bool,
            say: Callable[[str], None]) -> None:  # fmt: skip
    with contextlib.closing(stat_table(workspace)) as table:
        manifest = manifests.verify(workspace.root / stage.output, table)
        digests = {name: record.digest for name, record in manifest.inputs.items()}
        identity = identify(stage, settings, workspace, digests, table)
    compared = compare_short_runs(workspace, stage, settings, manifest, say) if check else {}
    kept = manifest.model_copy(update={"accepted": (*manifest.accepted, Acceptance(
        code=identity.code.digest, files=identity.code.files, key=identity.key, who=who, why=why, compared=compared,
        when=datetime.now(UTC).isoformat(timespec="seconds")))})
    manifests.write(workspace.root / stage.output, kept)
    refused = dvc_repo.record(workspace, stage.name, kept)
    if refused:
        say(refused)
    known = published_outputs.read(workspace, kept.key)
    if known is not None:   # by this key it is put back from the cache
        published_outputs.write(workspace, known, key=identity.key)
    say(f"{stage.name}: accepted ({'the same bits in a short run' if compared else 'not compared'})")


def compare_short_runs(workspace: Workspace, stage: Stage, settings: Settings, manifest: Manifest,
                       say: Callable[[str], None]) -> dict:  # fmt: skip
    """Run the stage shortly by the code that made `manifest` and by today's; returns what was compared.

    Raises DataDiffers naming the first file that differs, NotAvailable where the old code cannot be run.
    """
    commit = commit_of(workspace, manifest.code) or _published_commit(workspace, manifest)
    if commit is None:
        raise NotAvailable(f"stage '{stage.name}': which commit made the output is not known here",
                           hint=UNCHECKED)
    shortened = stage.shortened(stage.parse(manifest.settings, "manifest.json")).model_dump(mode="json")
    paths = outside_paths(settings, workspace.root)
    with tempfile.TemporaryDirectory(prefix="fewstep-accept-") as scratch, _code_at(workspace, commit) as old:
        _check_code_of(workspace, stage, manifest, old, commit)
        answers = []
        for name, root in (("old", old), ("new", ROOT)):
            say(f"{stage.name}: a short run by {'the code that made it' if name == 'old' else 'the code of today'} …")
            request = Request(
                version=VERSION, stage=stage.name, settings=shortened, seed=manifest.seed, root=str(workspace.root),
                inputs={read: str(workspace.root / graph.stage(read).output) for read in stage.inputs},
                outside={read: str(paths[read]) for read in stage.outside if paths[read] is not None},
                work=str(Path(scratch) / name))
            answers.append(_short_run(root, request))
    before, after = answers
    differing = changed_files(before.files, after.files)
    if differing or before.summary != after.summary:
        raise DataDiffers(
            f"stage '{stage.name}' is not accepted: in a short run, today's code makes other bytes than the code of "
            f"{commit[:12]}: {', '.join(differing[:3]) or 'the summary in the manifest'}",
            hint="`fewstep run` makes it again; where the difference is known to be harmless, `fewstep accept "
                 f"{stage.name} --unchecked --why ...` keeps it")
    return {"commit": commit, "files": len(after.files), "digest": after.digest}


def _published_commit(workspace: Workspace, manifest: Manifest) -> str | None:
    output = published_outputs.read(workspace, manifest.key)
    return output.commit if output is not None else None


def _check_code_of(workspace: Workspace, stage: Stage, manifest: Manifest, root: Path, commit: str) -> None:
    """Raises NotAvailable where the files at `root` are not the code that made the output."""
    with contextlib.closing(stat_table(workspace)) as table:
        tree = source_tree(root, workspace, table)
        try:
            files = stage_code(stage, stage.parse(manifest.settings, "manifest.json"), tree).files
        except SettingsError as error:
            raise NotAvailable(f"stage '{stage.name}': commit {commit[:12]}: {error}", hint=UNCHECKED) from None
    differing = changed_files(manifest.code_files, files)
    if differing:
        raise NotAvailable(f"stage '{stage.name}': commit {commit[:12]} holds other code than the output was made by "
                           f"({differing[0]})", hint=UNCHECKED)


@contextlib.contextmanager
def _code_at(workspace: Workspace, commit: str) -> Iterator[Path]:
    """A worktree of the code's `commit`: the folder in it that matches the code's. Raises NotAvailable for an unknown
    commit."""
    if not git.knows(workspace.code, commit):
        raise NotAvailable(f"commit {commit[:12]}, which made the output, is not in the repository of the code",
                           hint=UNCHECKED)
    path = workspace.shared / "accept"      # one at a time: the caller holds the workspace's lock
    remove_worktree(workspace.code, path)   # of one that was killed
    prefix = git.git(workspace.code, "rev-parse", "--show-prefix")
    try:
        git.git(workspace.code, "worktree", "add", "--detach", "--force", str(path), commit)
        yield (path / prefix).resolve()
    finally:
        remove_worktree(workspace.code, path)


def _short_run(root: Path, request: Request) -> Answer:
    """What a short run of the code below `root` makes. Raises NotAvailable if that code cannot run it."""
    environment = {**os.environ, "PYTHONPATH": source_path(os.environ, root)}
    done = subprocess.run([sys.executable, "-m", "tasks.engine.short_run"], input=request.model_dump_json(), text=True,
                          capture_output=True, cwd=root, env=environment)
    try:
        return parse(Answer, json.loads(done.stdout.splitlines()[-1]), "short run")
    except (IndexError, ValueError, SettingsError):
        last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        raise NotAvailable(f"stage '{request.stage}': the code in {root} cannot make a short run: {last}",
                           hint=UNCHECKED) from None
