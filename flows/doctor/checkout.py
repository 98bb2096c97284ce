"""Checks of a checkout: its settings, folders, disk, git, DVC and runs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator

from flows.doctor.finding import Finding
from tasks.config import params_file
from tasks.config.preflight import validate
from tasks.engine.plan import plan
from tasks.storage.code_state import sources
from tasks.storage.dvc import dvc_repo
from tasks.storage.workspace import Workspace
from tasks.tracking.run_record import KILLED, RUNNING
from tasks.tracking.run_records import RunStore

LITTLE_DISK, NO_DISK = 5 << 30, 1 << 30     # bytes


def settings(workspace: Workspace) -> Iterator[Finding]:
    """Whether params.yaml describes a run that can be made. Raises SettingsError where not."""
    settings = params_file.load(workspace.params)
    validate(workspace.root, settings)
    yield Finding("params.yaml", "ok", f"{settings.name}, profile {settings.profile}, recipe {settings.distill.recipe}")


def folders(workspace: Workspace) -> Iterator[Finding]:
    """Whether outputs and work can be written, on one file system: outputs take their place by a rename."""
    devices = {}
    for folder in (workspace.data, workspace.local, workspace.shared):
        present = next(path for path in (folder, *folder.parents) if path.exists())
        try:
            with tempfile.TemporaryFile(dir=present):
                devices[folder] = os.stat(present).st_dev
        except OSError as error:
            yield Finding("folders", "error", f"cannot write in {folder}: {error.strerror}",
                          f"ls -ld {present}; df -h {present}")
    if len({devices.get(folder) for folder in (workspace.data, workspace.local)}) > 1:
        yield Finding("folders", "error", f"{workspace.data} and {workspace.local} are on different file systems",
                      "put both on one: finished outputs take their place by a rename")
    elif len(devices) == 3 or (workspace.is_main and len(devices) == 2):
        yield Finding("folders", "ok", "data and .fewstep are writable, on one file system")


def disk(workspace: Workspace) -> Iterator[Finding]:
    """Free space."""
    free = shutil.disk_usage(workspace.root).free
    level = "ok" if free >= LITTLE_DISK else "warning" if free >= NO_DISK else "error"
    yield Finding("disk", level, f"{free / (1 << 30):.1f} GiB free",
                  None if level == "ok" else "`fewstep clean` and `fewstep gc` free what nothing uses")


def git_state(workspace: Workspace) -> Iterator[Finding]:
    """Whether there is a commit to name, of the workspace and of its code."""
    made_of = sources(workspace)
    state = made_of.workspace
    if state.commit is None:
        yield Finding("git", "error", "no git repository with a commit: lineage, isolated and scheduled runs need one",
                      "git init && git add -A && git commit -m start")
    else:
        yield Finding("git", "ok", f"commit {state.commit[:10]}"
                      + (", with uncommitted changes" if state.modified else ""))
    if made_of.origin is not None:
        level = "ok" if made_of.origin.commit else "warning"
        yield Finding("code", level, f"{workspace.code}, {made_of.origin.told()}",
                      None if made_of.origin.commit else "install a checkout of fewstep: models that were made by code "
                      "outside git have no complete lineage, and are not promoted")


def dvc_state(workspace: Workspace) -> Iterator[Finding]:
    """Whether DVC's records agree with the outputs, and whether there is a remote."""
    if not (workspace.root / ".dvc" / "config").exists():
        yield Finding("dvc", "error", "no DVC repository here", "dvc init, or restore .dvc from git")
        return
    items = plan(workspace, params_file.load(workspace.params))
    false = [item.false_record for item in items if item.false_record]
    for text in false:
        yield Finding("dvc", "warning", text, "`fewstep run` makes the stage anew and records the truth")
    if not dvc_repo.has_remote(workspace):
        yield Finding("dvc", "warning", "no default remote: outputs are on this disk alone",
                      "dvc remote add -d NAME URL")
    elif not false:
        yield Finding("dvc", "ok", "records agree, a default remote is set")


def runs(workspace: Workspace) -> Iterator[Finding]:
    """Whether a killed run still counts as running."""
    store = RunStore(workspace)
    dead = [record.id for record in store.all() if record.state == RUNNING and store.state(record) == KILLED]
    if dead:
        yield Finding("runs", "warning", f"killed and not yet settled: {', '.join(dead[:3])}",
                      f"`fewstep reconcile`, then `fewstep resume {dead[0]}`")
    else:
        yield Finding("runs", "ok", f"{len(store.ids())} recorded")
